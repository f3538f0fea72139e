#include "linalg/triplets.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>

#include "linalg/blas.hpp"
#include "linalg/gram.hpp"

namespace loragraft {

SmallSvd small_svd(const Matrix<double>& a) {
  const std::size_t k = std::min(a.rows(), a.cols());
  SmallSvd out{Matrix<double>(a.rows(), k), std::vector<double>(k), Matrix<double>(k, a.cols())};
  Matrix<double> copy(a.rows(), a.cols());
  std::copy_n(a.data(), a.size(), copy.data());
  svd(copy.view(), out.u.view(), out.s.data(), out.vt.view());
  return out;
}

Matrix<float> rotate(MatrixView<const float> q, const Matrix<double>& w, bool transposed,
                     std::size_t k) {
  Matrix<float> narrow(q.cols, k);
  for (std::size_t i = 0; i < q.cols; ++i) {
    for (std::size_t j = 0; j < k; ++j) {
      narrow.row(i)[j] = static_cast<float>(transposed ? w.row(j)[i] : w.row(i)[j]);
    }
  }
  Matrix<float> out(q.rows, k);
  gemm(Transpose::no, Transpose::no, 1.0F, q, narrow.view(), 0.0F, out.view());
  return out;
}

Matrix<float> transposed(const Matrix<float>& in) {
  Matrix<float> out(in.cols(), in.rows());
  // By tiles: whole columns would be a cache miss for every entry.
  constexpr std::size_t kTile = 16;
  for (std::size_t i = 0; i < in.rows(); i += kTile) {
    for (std::size_t j = 0; j < in.cols(); j += kTile) {
      for (std::size_t c = j; c < std::min(in.cols(), j + kTile); ++c) {
        for (std::size_t r = i; r < std::min(in.rows(), i + kTile); ++r) {
          out.row(c)[r] = in.row(r)[c];
        }
      }
    }
  }
  return out;
}

void take_values(TruncatedSvd& result, const std::vector<double>& all, std::size_t k) {
  constexpr std::size_t kFurther = 12;
  const auto end = all.begin() + static_cast<std::ptrdiff_t>(k);
  result.s.assign(all.begin(), end);
  const auto more = std::min(kFurther, all.size() - k);
  result.further.assign(end, end + static_cast<std::ptrdiff_t>(more));
}

void fix_signs(TruncatedSvd& result) {
  const std::size_t k = result.s.size();
  std::vector<float> largest(k, 0.0F);
  for (std::size_t i = 0; i < result.u.rows(); ++i) {
    const float* const row = result.u.row(i);
    for (std::size_t j = 0; j < k; ++j) {
      if (std::abs(row[j]) > std::abs(largest[j])) largest[j] = row[j];
    }
  }
  std::vector<float> signs(k);
  std::ranges::transform(largest, signs.begin(), [](float x) { return x < 0.0F ? -1.0F : 1.0F; });
  for (std::size_t i = 0; i < result.u.rows(); ++i) {
    float* const row = result.u.row(i);
    std::transform(row, row + k, signs.begin(), row, std::multiplies<>());
  }
  for (std::size_t j = 0; j < k; ++j) {
    float* const row = result.vt.row(j);
    std::transform(row, row + result.vt.cols(), row, [s = signs[j]](float x) { return s * x; });
  }
}

std::optional<Triplets> triplets_of(MatrixView<const float> basis, MatrixView<const float> product,
                                    std::size_t k) {
  const std::size_t l = basis.cols;
  // basis = q r, hence A^T q = product r^-1 and its Gram matrix is r^-T (product^T product) r^-1.
  Matrix<double> inverse = gram(basis);
  if (!cholesky(inverse.view())) return std::nullopt;
  invert_upper(inverse.view());
  const Matrix<double> square = gram(product);
  for (std::size_t i = 0; i < l; ++i) {
    for (std::size_t j = 0; j < i; ++j) square.row(i)[j] = square.row(j)[i];
  }
  const Matrix<double> half(l, l);
  gemm(Transpose::no, Transpose::no, 1.0, square.view(), inverse.view(), 0.0, half.view());
  gemm(Transpose::yes, Transpose::no, 1.0, inverse.view(), half.view(), 0.0, square.view());
  Triplets out{Matrix<float>(basis.rows, k), std::vector<double>(l),
               Matrix<float>(k, product.rows)};
  const Matrix<double> vectors(l, l);
  eigen(square.view(), out.s.data(), vectors.view());
  for (double& value : out.s) value = std::sqrt(std::max(0.0, value));
  gemm(Transpose::no, Transpose::no, 1.0, inverse.view(), vectors.view(), 0.0, half.view());
  const Matrix<float> rotation(l, k);
  const Matrix<float> scaled(l, k);
  for (std::size_t i = 0; i < l; ++i) {
    for (std::size_t j = 0; j < k; ++j) {
      rotation.row(i)[j] = static_cast<float>(half.row(i)[j]);
      scaled.row(i)[j] = out.s[j] > 0.0 ? static_cast<float>(half.row(i)[j] / out.s[j]) : 0.0F;
    }
  }
  gemm(Transpose::no, Transpose::no, 1.0F, basis, rotation.view(), 0.0F, out.of_basis.view());
  gemm(Transpose::yes, Transpose::yes, 1.0F, scaled.view(), product, 0.0F, out.of_product.view());
  return out;
}

std::vector<double> squares_of(const std::vector<double>& s) {
  std::vector<double> squares(s.size());
  std::ranges::transform(s, squares.begin(), [](double x) { return x * x; });
  return squares;
}

void require_finite(const TileSums& sums) {
  if (!std::isfinite(sums.delta)) throw Error(Errc::non_finite, "NaN or Inf among the entries");
}

}  // namespace loragraft
