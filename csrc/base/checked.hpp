#pragma once

#include <cstddef>

#include "base/error.hpp"

namespace loragraft {

// The only places where sizes are multiplied or added without a bound known beforehand.
inline std::size_t checked_mul(std::size_t a, std::size_t b) {
  std::size_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) {
    throw Error(Errc::invalid_argument, "size overflow: " + std::to_string(a) + " x " +
                                            std::to_string(b) + " does not fit 64 bits");
  }
  return product;
}

inline std::size_t checked_add(std::size_t a, std::size_t b) {
  std::size_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) {
    throw Error(Errc::invalid_argument, "size overflow: " + std::to_string(a) + " + " +
                                            std::to_string(b) + " does not fit 64 bits");
  }
  return sum;
}

constexpr std::size_t ceil_div(std::size_t a, std::size_t b) { return a / b + (a % b != 0); }
constexpr std::size_t round_up(std::size_t a, std::size_t b) { return ceil_div(a, b) * b; }

}  // namespace loragraft
