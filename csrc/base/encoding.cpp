#include "base/encoding.hpp"

#include <array>
#include <bit>
#include <limits>
#include <string>

#include "base/error.hpp"

namespace loragraft {
namespace {

constexpr std::array<const char*, kEncodings> kCodes = {
    "BF16", "F16", "F32", "F8_E4M3", "F8_E5M2", "I8", "U8", "F4_E2M1", "F8_E8M0"};
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

}  // namespace

Encoding encoding_from_code(const char* code) {
  const std::string wanted(code);
  std::string known;
  for (std::size_t i = 0; i < kEncodings; ++i) {
    const auto encoding = static_cast<Encoding>(i);
    // Two to a byte: they come with their scales, never as a matrix of their own.
    if (encoding == Encoding::f4_e2m1) continue;
    if (wanted == encoding_code(encoding)) return encoding;
    known += (known.empty() ? "" : ", ") + std::string(encoding_code(encoding));
  }
  throw Error(Errc::invalid_argument, "dtype " + wanted + ": expected one of " + known);
}

const char* encoding_code(Encoding encoding) { return kCodes[static_cast<std::size_t>(encoding)]; }

float widen_f8_e4m3(std::uint8_t bits) {
  const std::uint32_t magnitude = bits & 0x7FU;
  if (magnitude == 0x7F) return kNan;
  // The bits of an fp16 number whose exponent has another bias.
  const auto half = static_cast<std::uint16_t>((magnitude << 7U) | ((bits & 0x80U) << 8U));
  return 256.0F * widen_f16(half);
}

float widen_f8_e5m2(std::uint8_t bits) {
  if ((bits & 0x7FU) > 0x7CU) return kNan;
  return widen_f16(static_cast<std::uint16_t>(std::uint32_t{bits} << 8U));
}

float widen_f8_e8m0(std::uint8_t bits) {
  if (bits == 0xFF) return kNan;
  // The smallest, 2^-127, is subnormal.
  return std::bit_cast<float>(bits == 0 ? 0x00400000U : static_cast<std::uint32_t>(bits) << 23U);
}

float widen_f4_e2m1(std::uint8_t bits) {
  constexpr std::array<float, 8> kMagnitudes = {0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F};
  const float magnitude = kMagnitudes[bits & 7U];
  return (bits & 8U) != 0 ? -magnitude : magnitude;
}

}  // namespace loragraft
