#pragma once

#include "base/views.hpp"

namespace loragraft {

// Overlap of two subspaces, ||U1^T U2||_F^2 / min(p, q) in [0, 1]: the mean squared cosine of the
// principal angles (LoRA-X, arXiv 2501.16559, section 4). u1 (m, p), u2 (m, q), orthonormal
// columns.
double subspace_similarity(MatrixView<const float> u1, MatrixView<const float> u2);

// <X, Y>_F, products and sums in double precision.
double inner_product(MatrixView<const float> x, MatrixView<const float> y);

// <b1 a1, b2 a2>_F = trace((b1^T b2)(a2 a1^T)) without forming either product; b (m, r), a (r, n).
double factored_inner_product(MatrixView<const float> b1, MatrixView<const float> a1,
                              MatrixView<const float> b2, MatrixView<const float> a2);

// <d, b a>_F = <b^T d, a> without forming b a; d (m, n), b (m, r), a (r, n).
double mixed_inner_product(MatrixView<const float> d, MatrixView<const float> b,
                           MatrixView<const float> a);

}  // namespace loragraft
