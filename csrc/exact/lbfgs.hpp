#pragma once

#include <span>
#include <vector>

#include "base/views.hpp"

namespace loragraft {

// Limited-memory BFGS (Nocedal, Wright: Numerical Optimization, 2006, algorithm 7.4): the product
// of the inverse Hessian's approximation with a gradient, from the last few steps and the changes
// of the gradient along them.
class Lbfgs {
 public:
  Lbfgs(std::size_t size, std::size_t memory);

  [[nodiscard]] bool empty() const { return count_ == 0; }
  void forget() { count_ = 0; }

  // Pairs without positive curvature are left out.
  void remember(std::span<const float> step, std::span<const float> change);

  // `vector` becomes H vector; nothing remembered is the identity.
  void apply(std::span<float> vector) const;

 private:
  struct Pair {
    AlignedBuffer<float> step;
    AlignedBuffer<float> change;
    double curvature = 0.0;  // step . change
    double square = 0.0;     // change . change
  };
  // The i-th from the newest.
  [[nodiscard]] const Pair& pair(std::size_t i) const {
    return pairs_[(next_ + pairs_.size() - 1 - i) % pairs_.size()];
  }

  std::size_t size_;
  std::vector<Pair> pairs_;
  std::size_t next_ = 0;
  std::size_t count_ = 0;
};

}  // namespace loragraft
