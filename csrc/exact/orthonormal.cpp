#include "exact/orthonormal.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "linalg/blas.hpp"

namespace loragraft {

Orthonormal orthonormal(Matrix<double> columns) {
  if (columns.rows() < columns.cols()) {
    throw Error(Errc::invalid_argument, "orthonormal: more columns than rows");
  }
  Orthonormal out{std::move(columns), {}};
  out.r = Matrix<double>(out.q.cols(), out.q.cols());
  std::vector<std::size_t> zeros;
  for (std::size_t i = 0; i < out.q.rows(); ++i) {
    const double* const row = out.q.row(i);
    if (std::all_of(row, row + out.q.cols(), [](double x) { return x == 0.0; })) zeros.push_back(i);
  }
  householder_qr(out.q.view(), out.r.view());
  // Dependent columns leave Q arbitrary there; what R has of them is zero.
  for (const std::size_t i : zeros) std::fill_n(out.q.row(i), out.q.cols(), 0.0);
  return out;
}

}  // namespace loragraft
