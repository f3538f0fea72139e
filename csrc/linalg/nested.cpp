#include "linalg/nested.hpp"

#include "linalg/gram.hpp"

namespace loragraft {

std::vector<double> nested_residuals(const TruncatedSvd& svd, MatrixView<const float> left,
                                     MatrixView<const float> right, double residual) {
  const std::size_t rank = left.cols;
  // <l_j r_j^T, l_k r_k^T> = (l_j^T l_k) (r_j r_k^T); with u_j s_j and vt_j in the first place it
  // is A's part of <A, l_k r_k^T>.
  const Matrix<double> lefts = tall_product(left, left);
  const Matrix<double> rights = wide_product(right, right);
  const Matrix<double> of_left = tall_product(svd.u.view(), left);
  const Matrix<double> of_right = wide_product(svd.vt.view(), right);
  std::vector<double> out(rank);
  double added = 0.0;
  for (std::size_t k = rank; k-- > 0;) {
    out[k] = residual + added;
    // Cutting off one more, t = l_k r_k^T: 2 <E, t> + 2 <T, t> + ||t||^2 for the T cut off before,
    // and E + T is A less the products up to k.
    double inner = 0.0;
    for (std::size_t j = 0; j < svd.s.size(); ++j) {
      inner += svd.s[j] * of_left.row(j)[k] * of_right.row(j)[k];
    }
    for (std::size_t j = 0; j <= k; ++j) inner -= lefts.row(j)[k] * rights.row(j)[k];
    added += 2.0 * inner + lefts.row(k)[k] * rights.row(k)[k];
  }
  return out;
}

std::vector<double> nested_optima(const TruncatedSvd& svd, double optimum) {
  std::vector<double> out(svd.s.size());
  for (std::size_t k = out.size(); k-- > 0;) {
    out[k] = optimum;
    optimum += svd.s[k] * svd.s[k];
  }
  return out;
}

}  // namespace loragraft
