#pragma once

#include <span>

#include "linalg/operators.hpp"

namespace loragraft {

// Whose directions are compared: the rows of a matrix or its columns.
enum class Lines : bool { rows, columns };

// The lines of A, each with its entries times `gain` (none where that is empty) and then divided by
// its norm, times `right` (d, l), d the length of a line: (number of lines, l). A line that is zero
// stays zero. Large matrices are multiplied in bytes where the machine is fast at that: every entry
// is then good to about 1 % of its line's root mean square, at random.
//
// Throws Errc::non_finite when an entry is NaN or Inf.
Matrix<float> unit_lines_times(const LinearOperator& a, Lines lines, std::span<const float> gain,
                               MatrixView<const float> right, const Run& run);

}  // namespace loragraft
