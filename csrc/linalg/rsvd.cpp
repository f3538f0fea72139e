#include "linalg/rsvd.hpp"

#include <algorithm>
#include <string>

#include "linalg/byte_iteration.hpp"
#include "linalg/float_iteration.hpp"
#include "linalg/triplets.hpp"
#include "simd/isa.hpp"

namespace loragraft {
namespace {

// Largest smaller side for which a full SVD is preferred to a wide subspace: it cannot be stopped
// half way, and takes less than a second up to here.
constexpr std::size_t kDenseSide = 1024;
// Smaller sides below this gain nothing from bytes.
constexpr std::size_t kByteSide = 256;
// A full SVD of this many entries costs less than a sketch's bookkeeping.
constexpr std::size_t kSmall = 64 * std::size_t{64};

TruncatedSvd full_svd(LinearOperator& a, const SvdOptions& options, const Run& run) {
  TruncatedSvd result;
  result.sums = a.measure(run);
  require_finite(result.sums);
  Matrix<double> dense(a.rows(), a.cols());
  a.materialize(dense.view(), run);
  const SmallSvd all = small_svd(dense);
  const std::size_t k = options.rank;
  result.u = Matrix<float>(a.rows(), k);
  result.vt = Matrix<float>(k, a.cols());
  take_values(result, all.s, k);
  for (std::size_t i = 0; i < a.rows(); ++i) std::copy_n(all.u.row(i), k, result.u.row(i));
  std::copy_n(all.vt.data(), result.vt.size(), result.vt.data());
  result.exact = true;
  fix_signs(result);
  return result;
}

}  // namespace

TruncatedSvd truncated_svd(LinearOperator& a, const SvdOptions& options, const Run& run) {
  const std::size_t small_side = std::min(a.rows(), a.cols());
  if (options.rank == 0 || options.rank > small_side) {
    throw Error(Errc::invalid_argument, "rank " + std::to_string(options.rank) +
                                            ": expected 1 to " + std::to_string(small_side));
  }
  // Columns beyond the smaller side add nothing, however many are asked for.
  const std::size_t extra = std::min(options.oversampling, small_side);
  const std::size_t l = round_up(checked_add(options.rank, extra), kWidthUnit);
  // A subspace of nearly all dimensions costs more than all of them, and settles slowly.
  const bool dense = 4 * l >= 3 * small_side && small_side <= kDenseSide;
  if (l >= small_side || dense || a.rows() * a.cols() <= kSmall) return full_svd(a, options, run);

  if (options.arithmetic == Arithmetic::automatic && kernels().bytes != nullptr &&
      !options.power_iterations && small_side >= kByteSide) {
    return byte_iteration(a, options, l, run);
  }
  return float_iteration(a, options, l, run);
}

}  // namespace loragraft
