#pragma once

#include <cstddef>
#include <vector>

namespace loragraft {

// Decides when subspace iteration has found what a rank-k approximation can keep. Fed with the
// squared singular values of A restricted to the current subspace after each half step.
class SettlingRule {
 public:
  // `total` is ||A||_F^2, `dimensions` the smaller side of A.
  SettlingRule(std::size_t rank, double total, std::size_t dimensions)
      : rank_(rank), total_(total), dimensions_(dimensions) {}

  // True when the energy still to be gained by rank k is below a small share of the energy left
  // out, so that the error is within 0.1 % of the optimum's. `resolution` is the share of the
  // energy by which rounding may move what is seen of it from one half step to the next.
  bool settled(const std::vector<double>& squares, double resolution = 0.0);

  // Whether the next half step is expected to be the last. A guess, to be confirmed by `settled`.
  [[nodiscard]] bool settles_next() const { return settles_next_; }

 private:
  void see(double gain, bool real);
  [[nodiscard]] bool arriving(const std::vector<double>& squares) const;
  [[nodiscard]] double ratio_to_come(const std::vector<double>& squares, bool spread) const;

  std::size_t rank_;
  double total_;
  std::size_t dimensions_;
  std::vector<double> previous_;
  double previous_gain_ = 0.0;
  double seen_ = 0.0;  // ratio of the last two gains, at the most; 0 while there are no two
  std::size_t steps_ = 0;
  bool settles_next_ = false;
};

}  // namespace loragraft
