#include "linalg/byte_operand.hpp"

#include <algorithm>

#include "simd/isa.hpp"

namespace loragraft {
namespace {

// Columns below are zero to everything computed from them; the reciprocal stays finite.
constexpr float kSmallestPeak = 1e-30F;
// Squared relative error of a column above which its low bytes are used as well.
constexpr float kRough = 0.05F * 0.05F;

}  // namespace

ByteOperand::ByteOperand(std::size_t rows, std::size_t block_rows, std::size_t width)
    : block_rows_(block_rows), width_(width) {
  const std::size_t blocks = ceil_div(rows, block_rows);
  const std::size_t bytes = checked_mul(checked_mul(blocks, block_rows), width);
  high_ = AlignedBuffer<std::int8_t>(bytes);
  low_ = AlignedBuffer<std::int8_t>(bytes);
  sums_ = Matrix<std::int32_t>(2 * blocks, width);
  scales_ = Matrix<float>(4 * blocks, width);
  needs_low_.resize(blocks);
}

void ByteOperand::pack(MatrixView<const float> x) {
  for (std::size_t block = 0; block * block_rows_ < x.rows; ++block) {
    const std::size_t row = block * block_rows_;
    const std::size_t rows = std::min(block_rows_, x.rows - row);
    pack_block({x.row(row), rows, x.cols, x.ld}, block);
  }
}

void ByteOperand::pack_block(MatrixView<const float> x, std::size_t block) {
  const ByteKernels& kernel = *kernels().bytes;
  std::int32_t* const sums = sums_.row(2 * block);
  float* const scale = scales_.row(4 * block);
  std::fill_n(sums, 2 * width_, 0);
  std::vector<float> squares(width_);
  kernel.measure_columns(x.data, x.ld, x.rows, width_, scale, squares.data());
  std::vector<float> factors(width_);
  needs_low_[block] = false;
  for (std::size_t j = 0; j < width_; ++j) {
    const float step = scale[j] / kernel.limit;
    const float error_square = static_cast<float>(x.rows) * step * step / 12.0F;
    if (error_square > kRough * squares[j]) needs_low_[block] = true;
    factors[j] = scale[j] > kSmallestPeak ? kernel.limit / scale[j] : 0.0F;
    scale[j] = step;
    scale[width_ + j] = step / (2.0F * kernel.limit);
    scale[2 * width_ + j] = scale[j] / 256.0F;
    scale[3 * width_ + j] = scale[width_ + j] / 256.0F;
  }
  const std::size_t at = block * block_rows_ * width_;
  const std::size_t whole = x.rows / kByteStep * kByteStep;
  const BytePack out{high_.data() + at, low_.data() + at, sums, sums + width_};
  kernel.pack(x.data, x.ld, whole, width_, factors.data(), out);
  if (whole == x.rows) return;
  Matrix<float> rest(kByteStep, width_);
  rest.fill(0.0F);
  for (std::size_t i = whole; i < x.rows; ++i) std::copy_n(x.row(i), width_, rest.row(i - whole));
  const std::size_t behind = whole * width_;
  kernel.pack(rest.data(), width_, kByteStep, width_, factors.data(),
              {out.high + behind, out.low + behind, out.high_sums, out.low_sums});
}

void ByteOperand::unpack(MatrixView<float> x, bool both) const {
  for (std::size_t i = 0; i < x.rows; ++i) {
    const std::size_t block = i / block_rows_;
    const Plane high_plane = high(block);
    const Plane low_plane = low(block);
    const std::size_t row = i % block_rows_;
    const std::size_t at = row / kByteStep * width_ * kByteStep + row % kByteStep;
    const auto add = [&](const Plane& plane, float keep) {
      for (std::size_t j = 0; j < width_; ++j) {
        const auto byte = static_cast<float>(plane.bytes[at + j * kByteStep]);
        x.row(i)[j] = byte * plane.scale[j] + keep * x.row(i)[j];
      }
    };
    add(high_plane, 0.0F);
    if (both || needs_low(block)) add(low_plane, 1.0F);
  }
}

ByteOperand::Plane ByteOperand::high(std::size_t block) const {
  return {high_.data() + block * block_rows_ * width_, sums_.row(2 * block),
          scales_.row(4 * block)};
}

ByteOperand::Plane ByteOperand::low(std::size_t block) const {
  return {low_.data() + block * block_rows_ * width_, sums_.row(2 * block + 1),
          scales_.row(4 * block + 1)};
}

ByteOperand::Plane ByteOperand::high_with_low(std::size_t block) const {
  return {high(block).bytes, high(block).sums, scales_.row(4 * block + 2)};
}

ByteOperand::Plane ByteOperand::low_with_low(std::size_t block) const {
  return {low(block).bytes, low(block).sums, scales_.row(4 * block + 3)};
}

}  // namespace loragraft
