#pragma once

#include "linalg/rsvd.hpp"

namespace loragraft {

// ||A - left right||_F^2 for left (m, r) and right (r, n) near the triplets of A, without a look at
// A: ||A||^2 - 2 <A, left right> + ||left right||^2, where the part of the factors outside the
// triplets' subspaces, their rounding, counts as orthogonal to A. Summed in double precision from
// single-precision triplets it is good to about 1e-6 ||A||^2, hence for residuals well above that.
double residual_near(const TruncatedSvd& svd, MatrixView<const float> left,
                     MatrixView<const float> right);

}  // namespace loragraft
