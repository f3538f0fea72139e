#include "linalg/residual.hpp"

#include <numeric>

#include "linalg/gram.hpp"

namespace loragraft {
namespace {

double dot(const Matrix<double>& a, const Matrix<double>& b) {
  return std::inner_product(a.data(), a.data() + a.size(), b.data(), 0.0);
}

}  // namespace

double residual_near(const TruncatedSvd& svd, MatrixView<const float> left,
                     MatrixView<const float> right) {
  // <u s vt, left right> = sum over k of s_k (u^T left right vt^T)_kk.
  const Matrix<double> of_left = tall_product(svd.u.view(), left);
  const Matrix<double> of_right = wide_product(svd.vt.view(), right);
  double common = 0.0;
  for (std::size_t k = 0; k < svd.s.size(); ++k) {
    common += svd.s[k] * std::inner_product(of_left.row(k), of_left.row(k) + of_left.cols(),
                                            of_right.row(k), 0.0);
  }
  const double own = dot(tall_product(left, left), wide_product(right, right));
  return svd.sums.delta - 2.0 * common + own;
}

}  // namespace loragraft
