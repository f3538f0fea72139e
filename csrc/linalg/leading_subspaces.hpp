#pragma once

#include "linalg/rsvd.hpp"

namespace loragraft {

// The leading k singular triplets of A, for the sake of the subspaces: what is asked for is that
// they are the leading ones, not only that they keep about as much energy. On flat spectra these
// are different questions.
//
// Through the Gram matrix of the smaller side: leading eigenvectors of it, then one product with A,
// which gives the singular values and the other side. Where that is no good (a long smaller side,
// a rank that is a large part of it, entries far from 1, a spectrum that falls by more than
// squares in single precision can tell) it is `truncated_svd`, and so it is where
// `power_iterations` are asked for. `sums` are those over the entries, and tell the norm.
//
// Throws Errc::non_finite when an entry is NaN or Inf.
TruncatedSvd leading_subspaces(LinearOperator& a, const SvdOptions& options, const Run& run);

}  // namespace loragraft
