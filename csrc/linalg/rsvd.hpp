#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "linalg/operators.hpp"

namespace loragraft {

// In what numbers a subspace is sought. `automatic` iterates in bytes where the machine is fast at
// that, for as long as their error is of no account beside what the result leaves out; see
// byte_iteration.hpp.
enum class Arithmetic : std::uint8_t { automatic, floats };

struct SvdOptions {
  std::size_t rank = 0;
  std::size_t oversampling = 8;
  std::optional<std::size_t> power_iterations;  // unset: until the captured energy has settled
  std::uint64_t key = 0;                        // of the sketch
  Arithmetic arithmetic = Arithmetic::automatic;
};

// A ~ u diag(s) vt, the leading k singular triplets, s decreasing, the largest |u| entry of each
// triplet positive.
struct TruncatedSvd {
  Matrix<float> u;        // (m, k)
  std::vector<double> s;  // (k)
  Matrix<float> vt;       // (k, n)
  // Some singular values beyond the k-th: at most the true ones, unless `exact`, for the subspace
  // was not sought for their sake.
  std::vector<double> further;
  std::size_t passes = 0;  // over the matrix; one may serve two products
  bool exact = false;      // by a full SVD, not by a sketch
  // Share of ||A||_F^2 by which energies may be off because products in bytes did not see all of A;
  // 1 where nothing is known of that.
  double energy_error = 1.0;
  TileSums sums;  // of the entries, as stored
};

// Randomized truncated SVD by subspace iteration, orthonormalised at each half step (Halko,
// Martinsson, Tropp 2011, algorithms 4.4 and 5.1). Deviations: the sketch is uniform instead of
// Gaussian; its width is rank + oversampling rounded up to a multiple of kWidthUnit; iteration may
// stop after a half step, when the energy that further steps would add has become negligible
// beside the energy left out; matrices that the sketch would span anyway get a full SVD.
//
// Throws Errc::non_finite when an entry is NaN or Inf.
TruncatedSvd truncated_svd(LinearOperator& a, const SvdOptions& options, const Run& run);

}  // namespace loragraft
