#include "exact/balanced_factors.hpp"

#include <utility>

#include "linalg/blas.hpp"
#include "linalg/triplets.hpp"

namespace loragraft {
namespace {

struct Orthonormal {
  Matrix<double> q;
  Matrix<double> r;
};

Orthonormal orthonormal(MatrixView<const float> a, Transpose transpose, std::size_t rank) {
  const bool across = transpose == Transpose::yes;
  Orthonormal out{Matrix<double>(across ? a.cols : a.rows, rank), Matrix<double>(rank, rank)};
  for (std::size_t i = 0; i < out.q.rows(); ++i) {
    for (std::size_t k = 0; k < rank; ++k) out.q.row(i)[k] = across ? a.row(k)[i] : a.row(i)[k];
  }
  householder_qr(out.q.view(), out.r.view());
  return out;
}

}  // namespace

BalancedFactors balanced(MatrixView<const float> left, MatrixView<const float> right) {
  const std::size_t rank = left.cols;
  const Orthonormal b = orthonormal(left, Transpose::no, rank);
  const Orthonormal a = orthonormal(right, Transpose::yes, rank);
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
