#pragma once

#include "base/views.hpp"

namespace loragraft {

struct Orthonormal {
  Matrix<double> q;  // (m, k), of orthonormal columns
  Matrix<double> r;  // (k, k), upper triangular
};

// The QR decomposition of columns (m, k), k <= m. Rows of zeros stay exactly that: where padding or
// pruned weights have changed by nothing, neither shall a product of q by a rounding error.
Orthonormal orthonormal(Matrix<double> columns);

}  // namespace loragraft
