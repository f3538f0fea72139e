#include "linalg/gram.hpp"

#include <algorithm>
#include <functional>

#include "linalg/blas.hpp"
#include "simd/isa.hpp"

namespace loragraft {
namespace {

// Rows or columns converted to double at a time: a block of 128 x 32 stays in the L1 cache.
constexpr std::size_t kBlock = 128;
// Rows summed in single precision.
constexpr std::size_t kRoughRows = 1024;

MatrixView<double> widened(MatrixView<const float> in, const Matrix<double>& out) {
  const MatrixView<double> view{out.data(), in.rows, in.cols, in.cols};
  for (std::size_t i = 0; i < in.rows; ++i) std::copy_n(in.row(i), in.cols, view.row(i));
  return view;
}

MatrixView<const float> block_of(MatrixView<const float> y, std::size_t row) {
  return {y.row(row), std::min(kBlock, y.rows - row), y.cols, y.ld};
}

}  // namespace

Matrix<double> gram(MatrixView<const float> y) {
  Matrix<double> g(y.cols, y.cols);
  g.fill(0.0);
  const Matrix<double> wide(kBlock, y.cols);
  for (std::size_t i = 0; i < y.rows; i += kBlock) {
    add_gram(widened(block_of(y, i), wide), g.view());
  }
  return g;
}

Matrix<double> rough_gram(MatrixView<const float> y) {
  Matrix<double> g(y.cols, y.cols);
  g.fill(0.0);
  const Matrix<float> part(y.cols, y.cols);
  for (std::size_t i = 0; i < y.rows; i += kRoughRows) {
    part.fill(0.0F);
    kernels().skinny(y.row(i), 1, y.ld, y.cols, std::min(kRoughRows, y.rows - i), y.row(i), y.ld,
                     part.data(), y.cols, y.cols);
    std::transform(g.data(), g.data() + g.size(), part.data(), g.data(), std::plus<>());
  }
  return g;
}

// a^T b of two tall matrices.
Matrix<double> tall_product(MatrixView<const float> a, MatrixView<const float> b) {
  Matrix<double> out(a.cols, b.cols);
  out.fill(0.0);
  const Matrix<double> wide_a(kBlock, a.cols);
  const Matrix<double> wide_b(kBlock, b.cols);
  for (std::size_t i = 0; i < a.rows; i += kBlock) {
    gemm(Transpose::yes, Transpose::no, 1.0, widened(block_of(a, i), wide_a),
         widened(block_of(b, i), wide_b), 1.0, out.view());
  }
  return out;
}

// a b^T of two wide matrices.
Matrix<double> wide_product(MatrixView<const float> a, MatrixView<const float> b) {
  Matrix<double> out(a.rows, b.rows);
  out.fill(0.0);
  const Matrix<double> wide_a(a.rows, kBlock);
  const Matrix<double> wide_b(b.rows, kBlock);
  for (std::size_t j = 0; j < a.cols; j += kBlock) {
    const std::size_t cols = std::min(kBlock, a.cols - j);
    gemm(Transpose::no, Transpose::yes, 1.0, widened({a.data + j, a.rows, cols, a.ld}, wide_a),
         widened({b.data + j, b.rows, cols, b.ld}, wide_b), 1.0, out.view());
  }
  return out;
}

}  // namespace loragraft
