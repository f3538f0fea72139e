#pragma once

#include <vector>

#include "exact/cell_matrix.hpp"

namespace loragraft {

struct ExactOptions {
  std::size_t rounds = 1000;  // evaluations of all entries, at most
  std::size_t memory = 8;     // of the quasi-Newton method, in steps
  // Stop when the square has fallen by less than a fifth within so many rounds, or is above a fifth
  // of the first after ten: where the rank sufficed it was a tenth at most. 0: never.
  std::size_t patience = 24;
  // How often a search that stalls near the cells is continued with its weakest direction replaced.
  std::size_t swaps = 3;
};

enum class ExactEnd : std::uint8_t {
  feasible,  // every entry lies in its cell, or all but one in a million
  stalled,   // patience is over, or no step goes further down
  rounds,    // as many as allowed
};

const char* end_name(ExactEnd end);

struct ExactFactors {
  Matrix<float> left;   // (m, r)
  Matrix<float> right;  // (r, n), of the same column norms
  ExactEnd end = ExactEnd::rounds;
  std::size_t violations = 0;      // entries outside their cells
  double square = 0.0;             // of what lies beyond the stretched cells
  std::size_t exact = 0;           // entries of base + left right that round to the tuned weight
  std::vector<HingeSums> history;  // of each round
};

// Factors of rank r whose product, added to the base, rounds to the tuned weights, sought from
// left (m, r) right (r, n), r <= min(m, n).
//
// Minimises half the squared distance from the cells, f(B A), by L-BFGS with backtracking. Both
// factors are coordinates in the metric of the start: with its singular value decomposition
// U diag(s) V^T, L = X diag(s)^-1 Y^T from X = U diag(s), Y = V diag(s), so that a step in X or in
// Y moves L by as much. Whether f reaches zero says whether the rank suffices.
//
// Throws Errc::invalid_argument for factors that do not fit, Errc::non_finite for NaN or Inf.
ExactFactors exact_factors(const CellMatrix& cells, MatrixView<const float> left,
                           MatrixView<const float> right, const ExactOptions& options,
                           const Run& run);

// The stretch of cells to aim at for rank r. A margin keeps rounding errors of single precision
// from leaving entries outside; but the more entries there are to each degree of freedom, the less
// room their cells leave in common, and a margin of more than that would have no solution.
double stretch_for(std::size_t rows, std::size_t cols, std::size_t rank);

// left (m, r) right (r, n) as CellMatrix takes them.
struct PaddedFactors {
  Matrix<float> left;
  Matrix<float> right;
  std::size_t rank = 0;
  [[nodiscard]] CellMatrix::Factored view() const { return {left.view(), right.view(), rank}; }
};
PaddedFactors pad_factors(const CellMatrix& cells, MatrixView<const float> left,
                          MatrixView<const float> right);

}  // namespace loragraft
