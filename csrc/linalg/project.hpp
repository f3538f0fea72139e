#pragma once

#include "base/parallel.hpp"
#include "base/views.hpp"

namespace loragraft {

// Projection of an update on two subspaces, P = U U^T D V V^T (LoRA-X, arXiv 2501.16559, eq. 3),
// u (m, p) and v (n, q) with orthonormal columns. Products associate so that nothing larger than
// the operands is built.

// d (m, n) dense; out (m, n).
void project_dense(MatrixView<const float> d, MatrixView<const float> u, MatrixView<const float> v,
                   MatrixView<float> out);

// d = b a with b (m, r), a (r, n), kept factored: out_b = U (U^T b), out_a = (a V) V^T.
struct FactoredProjection {
  MatrixView<float> b;
  MatrixView<float> a;
};
void project_factors(MatrixView<const float> b, MatrixView<const float> a,
                     MatrixView<const float> u, MatrixView<const float> v,
                     const FactoredProjection& out);

}  // namespace loragraft
