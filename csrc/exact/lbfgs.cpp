#include "exact/lbfgs.hpp"

#include <algorithm>

#include "simd/isa.hpp"

namespace loragraft {
namespace {

// Curvature below this share of |change|^2 is rounding error.
constexpr double kLeastCurvature = 1e-10;

}  // namespace

Lbfgs::Lbfgs(std::size_t size, std::size_t memory) : size_(size), pairs_(memory) {
  for (Pair& pair : pairs_) {
    pair.step = AlignedBuffer<float>(size);
    pair.change = AlignedBuffer<float>(size);
  }
}

void Lbfgs::remember(std::span<const float> step, std::span<const float> change) {
  const CellKernels& kernel = *kernels().cells;
  const double curvature = kernel.dot(step.data(), change.data(), size_);
  const double square = kernel.dot(change.data(), change.data(), size_);
  if (!(curvature > kLeastCurvature * square)) return;
  Pair& pair = pairs_[next_];
  std::ranges::copy(step, pair.step.data());
  std::ranges::copy(change, pair.change.data());
  pair.curvature = curvature;
  pair.square = square;
  next_ = (next_ + 1) % pairs_.size();
  count_ = std::min(count_ + 1, pairs_.size());
}

void Lbfgs::apply(std::span<float> vector) const {
  if (empty()) return;
  const CellKernels& kernel = *kernels().cells;
  std::vector<double> alpha(count_);
  for (std::size_t i = 0; i < count_; ++i) {
    const Pair& p = pair(i);
    alpha[i] = kernel.dot(p.step.data(), vector.data(), size_) / p.curvature;
    kernel.axpy(static_cast<float>(-alpha[i]), p.change.data(), vector.data(), size_);
  }
  const auto scale = static_cast<float>(pair(0).curvature / pair(0).square);
  for (float& x : vector) x *= scale;
  for (std::size_t i = count_; i-- > 0;) {
    const Pair& p = pair(i);
    const double beta = kernel.dot(p.change.data(), vector.data(), size_) / p.curvature;
    kernel.axpy(static_cast<float>(alpha[i] - beta), p.step.data(), vector.data(), size_);
  }
}

}  // namespace loragraft
