#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace loragraft {

// Arithmetic on bytes: integer products run at up to four times the rate of float ones, and their
// sums are exact, in any order.
//
// An entry x of a matrix is held as two bytes, in units that a row shares. With
// u = 0x8080 + round(x / unit), the high byte of u is a number offset by 128 and the low byte adds
// 1/256 of such a number:
//   x ~ 256 unit ((high - 128) + (low - 128) / 256).
// The other, skinny, operand is held as signed bytes of at most `limit`, on some ISAs 64, so that
// sums of two products fit into 16 bits there:
//   y ~ scale * (high + low / (2 limit)).
// Entries are at most this many units.
inline constexpr float kByteUnits = 127.0F * 256.0F;
// Entries are combined this many at a time, and split this many at a time.
inline constexpr std::size_t kByteStep = 4;
inline constexpr std::size_t kByteUnit = 64;

// c(place(i), j) += row_scale[i] * column_scale[j] * sum over k < 4 steps of (a(i, k) - 128) * b(k,
// j), i < rows, j < width, width a multiple of kWidthUnit. Four consecutive a(i, 4 s) ... lie at a
// + i * row_stride + s * step_stride; b is laid out as [steps][width][4].
struct ByteTile {
  const std::uint8_t* a = nullptr;
  std::size_t row_stride = 0;
  std::size_t step_stride = 0;
  std::size_t rows = 0;
  std::size_t steps = 0;
  const std::int8_t* b = nullptr;
  const std::int32_t* b_sums = nullptr;  // (width): 128 * sum over k of b(k, j)
  const float* row_scale = nullptr;      // (rows), or null for ones
  const float* column_scale = nullptr;   // (width)
  float* c = nullptr;
  std::size_t ldc = 0;
  std::size_t width = 0;
  const std::uint8_t* places = nullptr;  // (rows): rows of c; null for 0, 1, ...
};

// Packed columns of a skinny operand.
struct BytePack {
  std::int8_t* high;        // [steps][width][4]
  std::int8_t* low;         // likewise
  std::int32_t* high_sums;  // (width): 128 * sum of the column
  std::int32_t* low_sums;   // likewise
};

struct ByteKernels {
  float limit;

  // The largest |x|; NaN where one is among them is not promised.
  float (*peak)(const float* values, std::size_t n);

  // high, low <- bytes of in[0, n), factor = 1 / unit; n a multiple of kByteUnit. Returns the sum
  // of the squared errors, in units.
  float (*split)(const float* in, std::size_t n, float factor, std::uint8_t* high,
                 std::uint8_t* low);

  // peaks[j] <- the largest |in(i, j)|, squares[j] <- the sum of squares; i < rows, j < width.
  void (*measure_columns)(const float* in, std::size_t ld, std::size_t rows, std::size_t width,
                          float* peaks, float* squares);

  // out <- in(i, j) * factor[j] as bytes, i < rows, a multiple of kByteStep; adds to the sums. The
  // products must not exceed `limit`.
  void (*pack)(const float* in, std::size_t ld, std::size_t rows, std::size_t width,
               const float* factor, const BytePack& out);

  // Four rows of `blocks` times kByteUnit columns: byte (t, j) of block b to
  // out + b * stride + 4 * place(j) + t, where place(16 l + 4 q + c) = 16 q + 4 l + c.
  void (*interleave)(const std::uint8_t* in, std::size_t ld, std::size_t blocks, std::uint8_t* out,
                     std::size_t stride);

  void (*multiply)(const ByteTile& tile);
};

// The columns of a block in the order in which `interleave` puts them.
constexpr std::array<std::uint8_t, kByteUnit> interleaved_columns() {
  std::array<std::uint8_t, kByteUnit> columns{};
  for (std::size_t i = 0; i < kByteUnit; ++i) {
    columns[i] = static_cast<std::uint8_t>(16 * (i % 16 / 4) + 4 * (i / 16) + i % 4);
  }
  return columns;
}

}  // namespace loragraft
