#pragma once

#include "linalg/rsvd.hpp"

namespace loragraft {

// Half steps after which iteration gives up on settling. Gaussian noise, the slowest spectrum met,
// settles after about 20.
inline constexpr std::size_t kMaxHalfSteps = 32;

// Subspace iteration with single-precision products, from a random sketch of `width` columns.
TruncatedSvd float_iteration(LinearOperator& a, const SvdOptions& options, std::size_t width,
                             const Run& run);

// The same from a subspace that is good already: orthonormal columns `right` (n, width), and the
// sums over the entries that led to it.
TruncatedSvd float_iteration(LinearOperator& a, const SvdOptions& options, Matrix<float> right,
                             const TileSums& sums, const Run& run);

}  // namespace loragraft
