#include "linalg/factors.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <utility>

#include "simd/isa.hpp"

namespace loragraft {
namespace {

// fp16 is safe while casting loses no more than its 11 bits promise: beyond this share of the
// norm, entries have fallen among the subnormals.
constexpr double kF16Loss = 0x1p-11;

std::vector<std::byte> cast(std::span<const float> values, DType dtype) {
  std::vector<std::byte> out(checked_mul(values.size(), size_of(dtype)));
  kernels().narrow[static_cast<std::size_t>(dtype)](values.data(), out.data(), values.size());
  return out;
}

// What casting to fp16 loses is no more than its precision promises.
bool f16_is_safe(std::span<const float> values) {
  constexpr std::size_t kBlock = 1024;
  constexpr auto kF16 = static_cast<std::size_t>(DType::f16);
  std::array<std::byte, 2 * kBlock> stored{};
  std::array<float, kBlock> rounded{};
  double loss = 0.0;
  double total = 0.0;
  for (std::size_t i = 0; i < values.size(); i += kBlock) {
    const std::span part = values.subspan(i, std::min(kBlock, values.size() - i));
    kernels().narrow[kF16](part.data(), stored.data(), part.size());
    kernels().widen[kF16](stored.data(), rounded.data(), part.size());
    std::transform(part.begin(), part.end(), rounded.begin(), rounded.begin(), std::minus<>());
    loss += kernels().sum_squares(rounded.data(), part.size());
    total += kernels().sum_squares(part.data(), part.size());
  }
  return std::isfinite(loss) && loss <= kF16Loss * kF16Loss * total;
}

// What an extreme alpha or extreme weights end in.
Error out_of_range() {
  return {Errc::invalid_argument,
          "factors leave the range of float32: use an --alpha closer to the rank"};
}

DType choose_dtype(const FactorFormat& format, std::span<const float> a, std::span<const float> b) {
  const auto finite_in_f16 = [](float x) { return std::isfinite(widen_f16(narrow_f16(x))); };
  if (!format.dtype) return f16_is_safe(a) && f16_is_safe(b) ? DType::f16 : DType::bf16;
  if (*format.dtype == DType::f16 &&
      !(std::ranges::all_of(a, finite_in_f16) && std::ranges::all_of(b, finite_in_f16))) {
    throw Error(Errc::invalid_argument,
                "factors exceed the range of fp16 (65504): use --dtype bf16 or fp32");
  }
  return *format.dtype;
}

}  // namespace

Factors make_factors(const TruncatedSvd& svd, std::size_t rank, const FactorFormat& format) {
  if (rank == 0 || rank > svd.s.size()) {
    throw Error(Errc::invalid_argument, "rank " + std::to_string(rank) + " chosen of " +
                                            std::to_string(svd.s.size()) + " computed");
  }
  Matrix<float> right(rank, svd.vt.cols());
  Matrix<float> left(svd.u.rows(), rank);
  std::vector<double> roots(rank);
  for (std::size_t k = 0; k < rank; ++k) roots[k] = std::sqrt(svd.s[k] / format.scaling);
  const auto scaled = [](float x, double root) { return static_cast<float>(root * x); };
  for (std::size_t k = 0; k < rank; ++k) {
    const float* const row = svd.vt.row(k);
    std::transform(row, row + svd.vt.cols(), right.row(k),
                   [&, root = roots[k]](float x) { return scaled(x, root); });
  }
  for (std::size_t i = 0; i < svd.u.rows(); ++i) {
    const float* const row = svd.u.row(i);
    std::transform(row, row + rank, roots.begin(), left.row(i), scaled);
  }
  const auto zero = [](float x) { return x == 0.0F; };
  if (svd.s.front() > 0.0 && std::ranges::all_of(std::span(right.data(), right.size()), zero)) {
    throw out_of_range();
  }
  return store_factors(std::move(left), std::move(right), format);
}

Factors store_factors(Matrix<float> lora_b, Matrix<float> lora_a, const FactorFormat& format) {
  Factors out{.stored = {}, .right = std::move(lora_a), .left = std::move(lora_b)};
  const std::span right(out.right.data(), out.right.size());
  const std::span left(out.left.data(), out.left.size());
  const auto finite = [](float x) { return std::isfinite(x); };
  const auto scale = static_cast<float>(format.scaling);
  if (!std::isfinite(scale) || scale < std::numeric_limits<float>::min() ||
      !std::ranges::all_of(right, finite) || !std::ranges::all_of(left, finite)) {
    throw out_of_range();
  }
  const DType dtype = choose_dtype(format, right, left);
  out.stored.dtype = dtype;
  out.stored.rank = out.right.rows();
  out.stored.lora_a = cast(right, dtype);
  out.stored.lora_b = cast(left, dtype);
  // Back to the values that were stored.
  const auto widen = kernels().widen[static_cast<std::size_t>(dtype)];
  widen(out.stored.lora_a.data(), right.data(), right.size());
  widen(out.stored.lora_b.data(), left.data(), left.size());
  for (float& x : left) x *= scale;
  return out;
}

}  // namespace loragraft
