#pragma once

#include <cstddef>
#include <cstdint>

namespace loragraft {

// The weight formats that the kernels compute with, in the order of the conversion tables.
enum class DType : std::uint8_t { bf16, f16, f32 };
inline constexpr std::size_t kDTypes = 3;

constexpr std::size_t size_of(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

// Bits of stored mantissa: one unit in the last place of x is 2^(exponent(x) - mantissa_bits).
constexpr int mantissa_bits(DType dtype) {
  return dtype == DType::bf16 ? 7 : dtype == DType::f16 ? 10 : 23;
}

// No standard header with inline functions here: the ISA files include this one.
// Safetensors codes "BF16", "F16", "F32"; anything else is Errc::invalid_argument.
DType dtype_from_code(const char* code);
const char* dtype_code(DType dtype);

// Round to nearest, ties to even; NaN stays NaN, values out of range become infinite.
std::uint16_t narrow_bf16(float value);
std::uint16_t narrow_f16(float value);
// Exact.
float widen_bf16(std::uint16_t bits);
float widen_f16(std::uint16_t bits);

}  // namespace loragraft
