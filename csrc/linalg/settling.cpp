#include "linalg/settling.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace loragraft {
namespace {

// An error 0.1 % above the optimum is 0.2 % in energy; the rest is a margin, for gains are guessed.
constexpr double kTolerance = 6e-4;
// At the second half step no ratio of two gains is known yet, only the decay within a subspace
// whose last singular values are still too small: the estimate is trusted less.
constexpr double kUnseenTolerance = kTolerance / 4.0;
// A convergence ratio is never trusted to be closer to 1 than this, so that the sum stays finite.
constexpr double kSlowestRatio = 0.98;
// The largest squared singular value of a tail over the mean: 4 for square Gaussian noise, 5 for
// 1/sqrt(k) at the widths met here, more where the tail falls faster and matters less.
constexpr double kPeakOverMean = 8.0;
// A gain counts as real above so many times the resolution.
constexpr double kRealGain = 3.0;
// Growth of the last squared singular value in a half step that tells of a direction arriving.
constexpr double kArriving = 2.0;
// A difference of single-precision energies is known to this share of them.
constexpr double kResolved = 1e-5;

}  // namespace

bool SettlingRule::settled(const std::vector<double>& squares, double resolution) {
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
  ++steps_;
  const bool seen = steps_ > 2;
  if (seen) see(gain, gain > kRealGain * resolution * kept);
  double ratio = ratio_to_come(squares, seen);
  if (steps_ == 3 && arriving(squares)) ratio = std::max(ratio, std::sqrt(seen_));
  ratio = std::min(ratio, kSlowestRatio);
  const double guess = ratio_to_come(squares, true);
  previous_ = squares;
  previous_gain_ = gain;
  const double tolerance = (seen ? kTolerance : kUnseenTolerance) * left_out;
  settles_next_ = steps_ >= 2 && gain * guess * guess / (1.0 - guess) <= tolerance;
  return steps_ >= 2 && gain * ratio / (1.0 - ratio) <= tolerance;
}

// The ratio of the last two gains, as far as it can be known: one that rounding may have made is an
// upper bound of the real one.
void SettlingRule::see(double gain, bool real) {
  const double ratio = previous_gain_ > 0.0 ? gain / previous_gain_ : 0.0;
  seen_ = real || steps_ == 3 ? ratio : std::min(seen_, ratio);
}

// A direction that the sketch hardly saw still grows in the subspace: a single ratio of gains knows
// nothing of it.
bool SettlingRule::arriving(const std::vector<double>& squares) const {
  return squares.back() > kArriving * previous_.back();
}

// Gains fall at least by the last ratio seen, and in the end by (s_{l+1} / s_k)^2 a half step, l
// the width of the subspace.
double SettlingRule::ratio_to_come(const std::vector<double>& squares, bool spread) const {
  // Of a subspace no wider than the rank nothing is known of what follows.
  if (squares.size() <= rank_) return kSlowestRatio;
  if (squares[rank_ - 1] <= 0.0) return std::min(kSlowestRatio, seen_);
  // s_{l+1} is at most s_l, and not far above the mean of what the subspace misses, if that is
  // spread over all dimensions: a change of a few rows is not. Where rounding hides that mean, s_l
  // has to do.
  double next = squares.back();
  const double missed = total_ - std::accumulate(squares.begin(), squares.end(), 0.0);
  if (spread && missed > kResolved * total_ && dimensions_ > squares.size()) {
    const auto dimensions = static_cast<double>(dimensions_ - squares.size());
    next = std::min(next, kPeakOverMean * missed / dimensions);
  }
  return std::min(kSlowestRatio, std::max(next / squares[rank_ - 1], seen_));
}

}  // namespace loragraft
