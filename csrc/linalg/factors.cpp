#include "linalg/factors.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <string>

namespace loragraft {
namespace {

// fp16 is safe while casting loses no more than its 11 bits promise: beyond this share of the
// norm, entries have fallen among the subnormals.
constexpr double kF16Loss = 0x1p-11;

std::vector<std::byte> cast(std::span<const float> values, DType dtype) {
  std::vector<std::byte> out(checked_mul(values.size(), size_of(dtype)));
  if (dtype == DType::f32) {
    std::memcpy(out.data(), values.data(), out.size());
    return out;
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t bits = dtype == DType::f16 ? narrow_f16(values[i]) : narrow_bf16(values[i]);
    std::memcpy(out.data() + 2 * i, &bits, 2);
  }
  return out;
}

// The values that `cast` stored.
void round_through(std::span<float> values, DType dtype) {
  if (dtype == DType::f32) return;
  for (float& x : values) {
    x = dtype == DType::f16 ? widen_f16(narrow_f16(x)) : widen_bf16(narrow_bf16(x));
  }
}

// What casting to fp16 loses is no more than its precision promises.
bool f16_is_safe(std::span<const float> values) {
  double loss = 0.0;
  double total = 0.0;
  for (const float x : values) {
    const float rounded = widen_f16(narrow_f16(x));
    if (!std::isfinite(rounded)) return false;
    loss += static_cast<double>(x - rounded) * static_cast<double>(x - rounded);
    total += static_cast<double>(x) * static_cast<double>(x);
  }
  return loss <= kF16Loss * kF16Loss * total;
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
  Factors out{.stored = {},
              .right = Matrix<float>(rank, svd.vt.cols()),
              .left = Matrix<float>(svd.u.rows(), rank)};
  for (std::size_t k = 0; k < rank; ++k) {
    const double root = std::sqrt(svd.s[k] / format.scaling);
    for (std::size_t j = 0; j < svd.vt.cols(); ++j) {
      out.right.row(k)[j] = static_cast<float>(root * svd.vt.row(k)[j]);
    }
    for (std::size_t i = 0; i < svd.u.rows(); ++i) {
      out.left.row(i)[k] = static_cast<float>(root * svd.u.row(i)[k]);
    }
  }
  const std::span right(out.right.data(), out.right.size());
  const std::span left(out.left.data(), out.left.size());
  const auto finite = [](float x) { return std::isfinite(x); };
  const auto scale = static_cast<float>(format.scaling);
  // An extreme alpha or extreme weights leave nothing that float can carry.
  if (!std::isfinite(scale) || scale < std::numeric_limits<float>::min() ||
      !std::ranges::all_of(right, finite) || !std::ranges::all_of(left, finite) ||
      (svd.s.front() > 0.0 && std::ranges::all_of(right, [](float x) { return x == 0.0F; }))) {
    throw Error(Errc::invalid_argument,
                "factors leave the range of float32: use an --alpha closer to the rank");
  }
  const DType dtype = choose_dtype(format, right, left);
  out.stored.dtype = dtype;
  out.stored.rank = rank;
  out.stored.lora_a = cast(right, dtype);
  out.stored.lora_b = cast(left, dtype);
  round_through(right, dtype);
  round_through(left, dtype);
  for (float& x : left) x *= scale;
  return out;
}

}  // namespace loragraft
