#pragma once

#include <cstddef>

#include "base/dtype.hpp"

namespace loragraft {

// How far a weight may lie from the stored number: half a last place away from zero, half of the
// place below towards it (see base/cells.hpp), both times `stretch`, both more by `slack` times
// (|tuned - base| + half a last place).
struct CellRule {
  float half;      // 2^-(mantissa bits + 1)
  float smallest;  // positive normal number
  float stretch;
  float slack;
};

// A sum of some sixteen products in single precision is no better than this share of it. Where that
// is no longer negligible beside the cell, an entry counts as inside up to there.
constexpr float kCellPrecision = 0x1p-20F;
constexpr float kNegligible = 0x1p-4F;

struct HingeSums {
  double square = 0.0;         // of what lies beyond the stretched cells
  std::size_t violations = 0;  // entries beyond the cells with stretch 1, and their precision
};

inline void add_sums(HingeSums& total, const HingeSums& part) {
  total.square += part.square;
  total.violations += part.violations;
}

// What the search for factors inside rounding cells spends its time on. All pointers may be
// unaligned; `n` counts elements.
struct CellKernels {
  // entries[i] -= the nearest number x with base[i] + x inside the cell of tuned[i], ends included,
  // indexed [base dtype][tuned dtype]; adds to `sums`. F32 holds decoded numbers of the rule's
  // format. NaN or Inf on either side makes `square` NaN.
  void (*hinge[kDTypes][kDTypes])(const std::byte* base, const std::byte* tuned,
                                  const CellRule& rule, float* entries, std::size_t n,
                                  HingeSums& sums);

  // Sum of a[i] b[i], blocks of single precision summed in double.
  double (*dot)(const float* a, const float* b, std::size_t n);

  // y[i] += alpha x[i].
  void (*axpy)(float alpha, const float* x, float* y, std::size_t n);
};

}  // namespace loragraft
