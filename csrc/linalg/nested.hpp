#pragma once

#include <vector>

#include "linalg/rsvd.hpp"

namespace loragraft {

// ||A - left_r right_r||_F^2 of the first r columns of left (m, k) and rows of right (k, n), for
// r = 1 ... k, given that of all k, without a look at A. With T what is cut off and E = A - left
// right, it is ||E||^2 + 2 <E, T> + ||T||^2. The products of A with columns and rows come from its
// triplets, near which the factors must lie, all else from the factors themselves, in double
// precision: what is added is as good as the triplets' energies, to about 1e-6 of ||T||^2 (1e-5
// where bytes showed them), hence of the result.
std::vector<double> nested_residuals(const TruncatedSvd& svd, MatrixView<const float> left,
                                     MatrixView<const float> right, double residual);

// The least of these at each rank, given that at the last: of all matrices of rank r, those of the
// leading r triplets are nearest.
std::vector<double> nested_optima(const TruncatedSvd& svd, double optimum);

}  // namespace loragraft
