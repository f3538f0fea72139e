#include "linalg/similarity.hpp"

#include <algorithm>

#include "linalg/blas.hpp"

namespace loragraft {
namespace {

constexpr std::size_t kBlock = 256;

void require(bool holds) {
  if (!holds) throw Error(Errc::invalid_argument, "similarity: shapes of the operands do not fit");
}

Matrix<double> widen(MatrixView<const float> in) {
  Matrix<double> out(in.rows, in.cols);
  for (std::size_t i = 0; i < in.rows; ++i) std::copy_n(in.row(i), in.cols, out.row(i));
  return out;
}

// x^T y (p, q) in double precision, by blocks of rows.
Matrix<double> cross_gram(MatrixView<const float> x, MatrixView<const float> y) {
  Matrix<double> sum(x.cols, y.cols);
  sum.fill(0.0);
  for (std::size_t i = 0; i < x.rows; i += kBlock) {
    const std::size_t count = std::min(kBlock, x.rows - i);
    const Matrix<double> xs = widen({x.row(i), count, x.cols, x.ld});
    const Matrix<double> ys = widen({y.row(i), count, y.cols, y.ld});
    gemm(Transpose::yes, Transpose::no, 1.0, xs.view(), ys.view(), 1.0, sum.view());
  }
  return sum;
}

}  // namespace

double subspace_similarity(MatrixView<const float> u1, MatrixView<const float> u2) {
  require(u1.rows == u2.rows && u1.cols > 0 && u2.cols > 0);
  const Matrix<double> cosines = cross_gram(u1, u2);
  double total = 0.0;
  for (std::size_t i = 0; i < cosines.size(); ++i) total += cosines.data()[i] * cosines.data()[i];
  return total / static_cast<double>(std::min(u1.cols, u2.cols));
}

double inner_product(MatrixView<const float> x, MatrixView<const float> y) {
  require(x.rows == y.rows && x.cols == y.cols);
  double total = 0.0;
  for (std::size_t i = 0; i < x.rows; ++i) {
    double row = 0.0;
    for (std::size_t j = 0; j < x.cols; ++j) {
      row += static_cast<double>(x.row(i)[j]) * static_cast<double>(y.row(i)[j]);
    }
    total += row;
  }
  return total;
}

double factored_inner_product(MatrixView<const float> b1, MatrixView<const float> a1,
                              MatrixView<const float> b2, MatrixView<const float> a2) {
  require(b1.rows == b2.rows && a1.cols == a2.cols && b1.cols == a1.rows && b2.cols == a2.rows);
  const Matrix<double> left = cross_gram(b1, b2);  // (r1, r2)
  Matrix<double> right(a1.rows, a2.rows);          // (r1, r2) = a1 a2^T
  right.fill(0.0);
  const Matrix<double> wide1 = widen(a1);
  const Matrix<double> wide2 = widen(a2);
  gemm(Transpose::no, Transpose::yes, 1.0, wide1.view(), wide2.view(), 0.0, right.view());
  double total = 0.0;
  for (std::size_t i = 0; i < left.size(); ++i) total += left.data()[i] * right.data()[i];
  return total;
}

double mixed_inner_product(MatrixView<const float> d, MatrixView<const float> b,
                           MatrixView<const float> a) {
  require(b.rows == d.rows && a.cols == d.cols && b.cols == a.rows);
  const Matrix<double> left = cross_gram(b, d);  // (r, n)
  double total = 0.0;
  for (std::size_t i = 0; i < a.rows; ++i) {
    double row = 0.0;
    for (std::size_t j = 0; j < a.cols; ++j) {
      row += left.row(i)[j] * static_cast<double>(a.row(i)[j]);
    }
    total += row;
  }
  return total;
}

}  // namespace loragraft
