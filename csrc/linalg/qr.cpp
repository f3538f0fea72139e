#include "linalg/qr.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>

#include "linalg/blas.hpp"
#include "linalg/gram.hpp"
#include "simd/isa.hpp"

namespace loragraft {
namespace {

// Rows converted to double at a time: a block of 128 x 32 doubles stays in the L1 cache.
constexpr std::size_t kBlock = 128;

void widen_rows(MatrixView<const float> in, MatrixView<double> out) {
  for (std::size_t i = 0; i < in.rows; ++i) {
    std::copy_n(in.row(i), in.cols, out.row(i));
  }
}

template <class F>
void for_each_block(MatrixView<float> y, F visit) {
  for (std::size_t i = 0; i < y.rows; i += kBlock) {
    visit(MatrixView<float>{y.row(i), std::min(kBlock, y.rows - i), y.cols, y.ld});
  }
}

void multiply_right(MatrixView<float> y, MatrixView<const double> right) {
  const Matrix<double> wide(kBlock, y.cols);
  const Matrix<double> product(kBlock, y.cols);
  for_each_block(y, [&](MatrixView<float> block) {
    const MatrixView<double> rows{wide.data(), block.rows, block.cols, block.cols};
    const MatrixView<double> out{product.data(), block.rows, block.cols, block.cols};
    widen_rows(block, rows);
    gemm(Transpose::no, Transpose::no, 1.0, rows, right, 0.0, out);
    for (std::size_t i = 0; i < block.rows; ++i) {
      std::transform(out.row(i), out.row(i) + block.cols, block.row(i),
                     [](double x) { return static_cast<float>(x); });
    }
  });
}

// Columns are independent beyond what single-precision rounding could feign.
bool well_conditioned(MatrixView<const double> r) {
  double smallest = std::numeric_limits<double>::infinity();
  double largest = 0.0;
  for (std::size_t i = 0; i < r.rows; ++i) {
    smallest = std::min(smallest, std::abs(r.row(i)[i]));
    largest = std::max(largest, std::abs(r.row(i)[i]));
  }
  return smallest > 4.0 * std::numeric_limits<float>::epsilon() * largest;
}

double frobenius_square(const Matrix<double>& a) {
  return std::inner_product(a.data(), a.data() + a.size(), a.data(), 0.0);
}

enum class Step : std::uint8_t { failed, rough, clean };

// One step of CholeskyQR. The columns come out orthonormal to about l u cond(r)^2, u the rounding
// of double precision: `clean` when that is below what single precision can show.
Step cholesky_qr_step(MatrixView<float> y, Matrix<double>& r) {
  Matrix<double> factor = gram(y);
  if (!cholesky(factor.view()) || !well_conditioned(factor.view())) return Step::failed;
  Matrix<double> product(r.rows(), r.cols());
  gemm(Transpose::no, Transpose::no, 1.0, factor.view(), r.view(), 0.0, product.view());
  const double norm_square = frobenius_square(factor);
  invert_upper(factor.view());
  // ||r||_F ||r^-1||_F is at least the condition number.
  const double condition_square = norm_square * frobenius_square(factor);
  multiply_right(y, factor.view());
  r = std::move(product);
  const double loss =
      static_cast<double>(y.cols) * std::numeric_limits<double>::epsilon() * condition_square;
  return loss < std::numeric_limits<float>::epsilon() / 4.0 ? Step::clean : Step::rough;
}

Matrix<double> householder(MatrixView<float> y) {
  const Matrix<double> wide(y.rows, y.cols);
  Matrix<double> r(y.cols, y.cols);
  widen_rows(y, wide.view());
  householder_qr(wide.view(), r.view());
  for (std::size_t i = 0; i < y.rows; ++i) {
    std::transform(wide.row(i), wide.row(i) + y.cols, y.row(i),
                   [](double x) { return static_cast<float>(x); });
  }
  return r;
}

void multiply_right_roughly(MatrixView<float> y, MatrixView<const double> right) {
  constexpr std::size_t kRows = 120;
  const Matrix<float> narrow(y.cols, y.cols);
  std::transform(right.data, right.data + narrow.size(), narrow.data(),
                 [](double x) { return static_cast<float>(x); });
  const Matrix<float> product(kRows, y.cols);
  for (std::size_t i = 0; i < y.rows; i += kRows) {
    const std::size_t rows = std::min(kRows, y.rows - i);
    product.fill(0.0F);
    kernels().skinny(y.row(i), y.ld, 1, rows, y.cols, narrow.data(), y.cols, product.data(), y.cols,
                     y.cols);
    for (std::size_t r = 0; r < rows; ++r) std::copy_n(product.row(r), y.cols, y.row(i + r));
  }
}

}  // namespace

Matrix<double> orthonormalize_roughly(MatrixView<float> y) {
  // Beyond it, rounding of the Gram matrix shows: its share grows with the square.
  constexpr double kRoughCondition = 100.0;
  Matrix<double> r = rough_gram(y);
  if (!cholesky(r.view())) return orthonormalize(y);
  Matrix<double> inverse(r.rows(), r.cols());
  std::copy_n(r.data(), r.size(), inverse.data());
  const double norm_square = frobenius_square(r);
  if (!well_conditioned(r.view())) return orthonormalize(y);
  invert_upper(inverse.view());
  const double condition_square = norm_square * frobenius_square(inverse);
  const auto columns = static_cast<double>(y.cols);
  if (condition_square > kRoughCondition * kRoughCondition * columns) return orthonormalize(y);
  multiply_right_roughly(y, inverse.view());
  return r;
}

void divide_right(MatrixView<float> y, const Matrix<double>& r) {
  const Matrix<double> inverse(r.rows(), r.cols());
  std::copy_n(r.data(), r.size(), inverse.data());
  invert_upper(inverse.view());
  multiply_right(y, inverse.view());
}

Matrix<double> orthonormalize(MatrixView<float> y) {
  Matrix<double> r(y.cols, y.cols);
  r.fill(0.0);
  for (std::size_t i = 0; i < y.cols; ++i) r.row(i)[i] = 1.0;
  const Step first = cholesky_qr_step(y, r);
  if (first == Step::failed) return householder(y);
  // The second step cannot meet dependent columns: the first left them nearly orthonormal.
  if (first == Step::rough) cholesky_qr_step(y, r);
  return r;
}

}  // namespace loragraft
