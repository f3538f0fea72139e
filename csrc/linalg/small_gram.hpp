#pragma once

#include "linalg/operators.hpp"

namespace loragraft {

// X^T X, X being A or A^T, whichever has fewer columns.
struct SmallGram {
  Matrix<float> values;  // (d, d), d the smaller side of A, both triangles
  TileSums sums;         // of the entries of A
  // Squared Frobenius norm of what the products did not see of A, expected, but for the diagonal.
  double error_square = 0.0;
};

// In what the products are made: in single precision, or from one byte of each entry, in units of
// the largest of the 1,024 beside it: some 1 % of the root mean square is not seen, and it takes
// a third of the time. The diagonal is of single precision either way.
enum class GramProducts : bool { floats, bytes };

SmallGram small_gram(const LinearOperator& a, GramProducts products, const Run& run);

}  // namespace loragraft
