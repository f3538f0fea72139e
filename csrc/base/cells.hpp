#pragma once

#include <cstdint>

#include "base/encoding.hpp"

namespace loragraft {

// The grid that a narrow format rounds to. One unit in the last place of x is
// max(2^exponent(x), smallest) * 2^-mantissa; numbers below `smallest` are subnormal.
struct CellFormat {
  int mantissa;
  float smallest;  // positive normal number
  float largest;   // finite number
};

// Of BF16, F16, F8_E4M3 and F8_E5M2; anything else is Errc::invalid_argument.
CellFormat cell_format(Encoding encoding);

// The real numbers that a stored one stands for.
struct Cell {
  double low;
  double high;
  bool low_closed;
  bool high_closed;
};

// What becomes of numbers that round beyond the largest: Inf or NaN, or the largest itself.
enum class Beyond : bool { lost, saturated };

// All x that round to nearest, ties to even, to the finite number `stored` of the format, its sign
// included: zero itself is +0's.
Cell cell_of(const CellFormat& format, float stored, Beyond beyond = Beyond::lost);

bool contains(const Cell& cell, double x);

// Whether `sum` is rounded to `stored`, bit for bit.
bool rounds_to(const CellFormat& format, float sum, float stored);

}  // namespace loragraft
