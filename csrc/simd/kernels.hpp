#pragma once

#include <cstddef>

#include "base/encoding.hpp"
#include "simd/bytes.hpp"
#include "simd/cells.hpp"

namespace loragraft {

// Sums over the elements of a tile, in double precision.
struct TileSums {
  double delta = 0.0;   // of (tuned - base)^2
  double base = 0.0;    // of base^2
  double binade = 0.0;  // of 4^exponent(tuned): times 4^-mantissa_bits it is the sum of ulp^2
  double steps = 0.0;   // of (spacing of stored numbers around tuned)^2, where these are decoded
};

inline void add_sums(TileSums& total, const TileSums& part) {
  total.delta += part.delta;
  total.base += part.base;
  total.binade += part.binade;
  total.steps += part.steps;
}

// Widths of skinny operands are multiples of this on every ISA, so that shapes do not depend on it.
inline constexpr std::size_t kWidthUnit = 16;

// What an ISA implements. All pointers may be unaligned; `n` counts elements.
struct Kernels {
  const char* name;

  // out[i] = float(in[i]); exact.
  void (*widen[kDTypes])(const std::byte* in, float* out, std::size_t n);

  // out[i] = scales[i] * number i, in single precision; null scales are ones. `steps`, unless null,
  // grows by the sum of (scales[i] * spacing of the encoding's numbers around number i)^2. Null for
  // powers of two.
  void (*decode[kEncodings])(const std::byte* codes, const float* scales, float* out, std::size_t n,
                             double* steps);

  // out[i] = in[i], rounded to nearest even; overflow gives Inf.
  void (*narrow[kDTypes])(const float* in, std::byte* out, std::size_t n);

  // out[i] = float(tuned[i]) - float(base[i]), indexed [base dtype][tuned dtype].
  void (*delta[kDTypes][kDTypes])(const std::byte* base, const std::byte* tuned, float* out,
                                  std::size_t n);
  // The same, adding to `sums`.
  void (*delta_sums[kDTypes][kDTypes])(const std::byte* base, const std::byte* tuned, float* out,
                                       std::size_t n, TileSums& sums);

  // c(i, j) += sum over k < steps of a[i * row_stride + k * step_stride] * b[k * ldb + j],
  // i < rows, j < width, width a multiple of kWidthUnit. Sums run in blocks of kStepBlock steps,
  // in order, so that the rounding error grows with the block and not with `steps`.
  void (*skinny)(const float* a, std::size_t row_stride, std::size_t step_stride, std::size_t rows,
                 std::size_t steps, const float* b, std::size_t ldb, float* c, std::size_t ldc,
                 std::size_t width);

  // Sum of squares in double precision.
  double (*sum_squares)(const float* values, std::size_t n);

  // Null where integer products are not faster than float ones.
  const ByteKernels* bytes;

  const CellKernels* cells;
};

inline constexpr std::size_t kStepBlock = 256;

const Kernels& kernels_baseline();
#ifdef LORAGRAFT_X86
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
const Kernels& kernels_avx512vnni();
#endif

}  // namespace loragraft
