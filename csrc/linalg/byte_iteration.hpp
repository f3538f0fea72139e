#pragma once

#include "linalg/rsvd.hpp"

namespace loragraft {

// Subspace iteration with products in byte arithmetic, several times faster than in floats.
//
// A subspace that is multiplied on forgives errors: what rounding adds to it in directions that
// matter little shrinks with every product. So the half steps use the high bytes of both sides
// (about 1 % of the root mean square), and only the last product, which becomes one of the factors,
// uses both (as good as single precision). What the bytes of the matrix do not
// see moves the subspace for good: its squared norm E leaves about rank / side * E of energy behind
// (second-order perturbation of a projection), side being the number of rows that E is spread over,
// or of columns if these are fewer. Where that is not negligible beside the energy left out anyway,
// iteration goes on with both bytes, and where even they are too rough, as on matrices of exactly
// low rank, or nothing settles, in floats.
TruncatedSvd byte_iteration(LinearOperator& a, const SvdOptions& options, std::size_t width,
                            const Run& run);

}  // namespace loragraft
