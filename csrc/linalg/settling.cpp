#include "linalg/settling.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace loragraft {
namespace {

// An error 0.1 % above the optimum is 0.2 % in energy; the rest is a margin, for gains are guessed.
constexpr double kTolerance = 6e-4;
// At the second half step no ratio of two gains is known yet, only the decay within a subspace
// whose last singular values are still too small: the estimate is trusted less.
constexpr double kUnseenTolerance = kTolerance / 4.0;
// A convergence ratio is never trusted to be closer to 1 than this, so that the sum stays finite.
constexpr double kSlowestRatio = 0.98;

}  // namespace

bool SettlingRule::settled(const std::vector<double>& squares) {
  const double top = squares.empty() ? 0.0 : squares.front();
  double kept = 0.0;
  double gain = 0.0;
  double beyond = 0.0;
  for (std::size_t i = 0; i < squares.size(); ++i) {
    if (i >= rank_) {
      beyond += squares[i];
      continue;
    }
    kept += squares[i];
    // Single-precision data know a singular value to about eps * s_1.
    const double noise = 8.0 * std::numeric_limits<float>::epsilon() * std::sqrt(top * squares[i]);
    const double before = i < previous_.size() ? previous_[i] : 0.0;
    gain += std::max(0.0, std::abs(squares[i] - before) - noise);
  }
  const double left_out = std::max({total_ - kept, beyond, 0.0});
  // Gains fall at least by the last ratio seen, and in the end by (s_l / s_k)^2 a half step, l the
  // width of the subspace.
  double decay = 0.0;
  if (squares.size() <= rank_) {
    decay = kSlowestRatio;  // nothing is known of what follows
  } else if (squares[rank_ - 1] > 0.0) {
    decay = squares.back() / squares[rank_ - 1];
  }
  const double seen = steps_ >= 2 && previous_gain_ > 0.0 ? gain / previous_gain_ : 0.0;
  const double ratio = std::min(kSlowestRatio, std::max(decay, seen));
  const double to_come = gain * ratio / (1.0 - ratio);
  previous_ = squares;
  previous_gain_ = gain;
  ++steps_;
  const double tolerance = steps_ > 2 ? kTolerance : kUnseenTolerance;
  return steps_ >= 2 && to_come <= tolerance * left_out;
}

}  // namespace loragraft
