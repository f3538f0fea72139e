#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/views.hpp"
#include "simd/bytes.hpp"

namespace loragraft {

// A skinny matrix as bytes, column by column relative to its peak in a block of rows.
class ByteOperand {
 public:
  // Blocks of `block_rows` rows (a multiple of kByteStep) of matrices up to (rows, width).
  ByteOperand(std::size_t rows, std::size_t block_rows, std::size_t width);

  // Take the values of x (at most `rows` of them).
  void pack(MatrixView<const float> x);

  // What the bytes stand for, into x, a matrix as it was packed: both, or the high ones where these
  // will do.
  void unpack(MatrixView<float> x, bool both) const;

  struct Plane {
    const std::int8_t* bytes;
    const std::int32_t* sums;
    const float* scale;  // of the columns
  };
  [[nodiscard]] Plane high(std::size_t block) const;
  [[nodiscard]] Plane low(std::size_t block) const;
  // The scales of products with the low bytes of the other operand.
  [[nodiscard]] Plane high_with_low(std::size_t block) const;
  [[nodiscard]] Plane low_with_low(std::size_t block) const;

  // Whether high bytes alone are too rough for a column of the block: one whose weight sits in few
  // entries.
  [[nodiscard]] bool needs_low(std::size_t block) const { return needs_low_[block]; }

 private:
  void pack_block(MatrixView<const float> x, std::size_t block);

  std::size_t block_rows_;
  std::size_t width_;
  AlignedBuffer<std::int8_t> high_;
  AlignedBuffer<std::int8_t> low_;
  Matrix<std::int32_t> sums_;    // (2 * blocks, width)
  Matrix<float> scales_;         // (4 * blocks, width): high, low, both with the other's low
  std::vector<bool> needs_low_;  // by block
};

}  // namespace loragraft
