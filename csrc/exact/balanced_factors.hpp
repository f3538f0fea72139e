#pragma once

#include <vector>

#include "base/views.hpp"

namespace loragraft {

// The singular value decomposition of a product of factors, without the product.
struct BalancedFactors {
  Matrix<double> u;  // (m, r)
  std::vector<double> s;
  Matrix<double> v;  // (n, r)
};

// Of left (m, r) right (r, n), r <= min(m, n): of the r x r core between their orthonormal bases.
BalancedFactors balanced(MatrixView<const float> left, MatrixView<const float> right);

}  // namespace loragraft
