#include "base/cells.hpp"

#include <cmath>
#include <limits>
#include <string>

#include "base/error.hpp"

namespace loragraft {

CellFormat cell_format(Encoding encoding) {
  switch (encoding) {
    case Encoding::bf16:
      return {.mantissa = 7, .smallest = 0x1p-126F, .largest = 0x1.FEp127F};
    case Encoding::f16:
      return {.mantissa = 10, .smallest = 0x1p-14F, .largest = 65504.0F};
    case Encoding::f8_e4m3:
      return {.mantissa = 3, .smallest = 0x1p-6F, .largest = 448.0F};
    case Encoding::f8_e5m2:
      return {.mantissa = 2, .smallest = 0x1p-14F, .largest = 57344.0F};
    default:
      throw Error(Errc::invalid_argument, std::string("rounding cells of dtype ") +
                                              encoding_code(encoding) +
                                              ": expected BF16, F16, F8_E4M3 or F8_E5M2");
  }
}

Cell cell_of(const CellFormat& format, float stored, Beyond beyond) {
  const double value = std::abs(static_cast<double>(stored));
  const double smallest = format.smallest;
  const double binade = value < smallest ? smallest : std::ldexp(1.0, std::ilogb(value));
  const double place = std::ldexp(binade, -format.mantissa);
  // Below a power of two the numbers lie twice as close, but for the smallest normal one.
  const bool border = value == binade && value > smallest;
  const bool even = std::fmod(value / place, 2.0) == 0.0;
  Cell cell{.low = value - place / (border ? 4.0 : 2.0),
            .high = value + place / 2.0,
            .low_closed = even,
            .high_closed = even};
  const bool negative = std::signbit(stored);
  if (value == 0.0) {
    cell.low = 0.0;
    cell.low_closed = !negative;
  }
  if (beyond == Beyond::saturated && stored != 0.0F && value == format.largest) {
    cell.high = std::numeric_limits<double>::infinity();
    cell.high_closed = true;
  }
  return negative ? Cell{.low = -cell.high,
                         .high = -cell.low,
                         .low_closed = cell.high_closed,
                         .high_closed = cell.low_closed}
                  : cell;
}

bool contains(const Cell& cell, double x) {
  const bool above = x > cell.low || (cell.low_closed && x == cell.low);
  const bool below = x < cell.high || (cell.high_closed && x == cell.high);
  return above && below;
}

bool rounds_to(const CellFormat& format, float sum, float stored) {
  if (sum == 0.0F) return stored == 0.0F && std::signbit(sum) == std::signbit(stored);
  return contains(cell_of(format, stored), sum);
}

}  // namespace loragraft
