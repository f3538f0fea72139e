#include "exact/balanced_factors.hpp"

#include <algorithm>
#include <utility>

#include "exact/orthonormal.hpp"
#include "linalg/blas.hpp"
#include "linalg/triplets.hpp"

namespace loragraft {
namespace {

Matrix<double> widened(MatrixView<const float> a) {
  Matrix<double> out(a.rows, a.cols);
  for (std::size_t i = 0; i < a.rows; ++i) std::copy_n(a.row(i), a.cols, out.row(i));
  return out;
}

Matrix<double> transposed(MatrixView<const float> a) {
  Matrix<double> out(a.cols, a.rows);
  for (std::size_t i = 0; i < a.rows; ++i) {
    for (std::size_t j = 0; j < a.cols; ++j) out.row(j)[i] = a.row(i)[j];
  }
  return out;
}

}  // namespace

BalancedFactors balanced(MatrixView<const float> left, MatrixView<const float> right) {
  const std::size_t rank = left.cols;
  const Orthonormal b = orthonormal(widened(left));
  const Orthonormal a = orthonormal(transposed(right));
  const Matrix<double> core(rank, rank);
  gemm(Transpose::no, Transpose::yes, 1.0, b.r.view(), a.r.view(), 0.0, core.view());
  SmallSvd svd = small_svd(core);
  BalancedFactors out{Matrix<double>(left.rows, rank), std::move(svd.s),
                      Matrix<double>(right.cols, rank)};
  gemm(Transpose::no, Transpose::no, 1.0, b.q.view(), svd.u.view(), 0.0, out.u.view());
  gemm(Transpose::no, Transpose::yes, 1.0, a.q.view(), svd.vt.view(), 0.0, out.v.view());
  return out;
}

}  // namespace loragraft
