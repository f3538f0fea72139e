#pragma once

#include "exact/cell_matrix.hpp"

namespace loragraft {

struct FactorPair {
  Matrix<float> left;   // (m, r)
  Matrix<float> right;  // (r, n)
};

// left right with its last singular triplet replaced by one along which what lies beyond the cells
// falls fastest: R = L - (the nearest matrix inside them) has its leading one there, found by
// subspace iteration. Of use where a search has come to rest at a saddle, one of its directions
// spent on noise. `share` is that of entries outside: the fewer R sees, the longer the step.
FactorPair replace_weakest(const CellMatrix& cells, MatrixView<const float> left,
                           MatrixView<const float> right, double share, const Run& run);

}  // namespace loragraft
