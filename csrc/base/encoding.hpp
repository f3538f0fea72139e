#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.hpp"

namespace loragraft {

// What a stored number is written in: the weight formats first, in the order of DType, then codes
// that mean little without a scale. F8_E4M3 is the variant without Inf (OCP 8-bit floating point,
// 1.0), F4_E2M1 comes two to a byte, the lower half first; F8_E8M0 is a power of two, for scales.
enum class Encoding : std::uint8_t {
  bf16,
  f16,
  f32,
  f8_e4m3,
  f8_e5m2,
  i8,
  u8,
  f4_e2m1,
  f8_e8m0,
};
inline constexpr std::size_t kEncodings = 9;

constexpr Encoding encoding_of(DType dtype) { return static_cast<Encoding>(dtype); }
constexpr bool is_dtype(Encoding encoding) { return encoding <= Encoding::f32; }

// Bytes that `count` numbers take.
constexpr std::size_t bytes_of(Encoding encoding, std::size_t count) {
  if (encoding == Encoding::f4_e2m1) return count / 2 + count % 2;
  if (encoding == Encoding::f32) return 4 * count;
  return encoding <= Encoding::f16 ? 2 * count : count;
}

// No standard header with inline functions here: the ISA files include this one.
// Safetensors codes, from "BF16" to "F8_E8M0"; anything else is Errc::invalid_argument.
Encoding encoding_from_code(const char* code);
const char* encoding_code(Encoding encoding);

// Exact, but that every NaN is the quiet one without a sign.
float widen_f8_e4m3(std::uint8_t bits);
float widen_f8_e5m2(std::uint8_t bits);
float widen_f8_e8m0(std::uint8_t bits);
float widen_f4_e2m1(std::uint8_t bits);  // of the lower half

}  // namespace loragraft
