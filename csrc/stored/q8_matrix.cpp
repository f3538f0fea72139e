#include "stored/q8_matrix.hpp"

#include <cstring>
#include <string>
#include <utility>

#include "stored/decoding.hpp"

namespace loragraft {
namespace {

constexpr std::size_t kScaleBytes = Q8Matrix::kBlockBytes - Q8Matrix::kBlock;

StridedNumbers blocks_of(std::shared_ptr<const MappedFile> file, std::size_t offset,
                         const Q8Matrix::Rows& what) {
  if (what.cols % Q8Matrix::kBlock != 0) {
    throw Error(Errc::format, file->path() + ": " + std::to_string(what.cols) +
                                  " columns of Q8_0: expected a multiple of 32");
  }
  const std::size_t width = checked_mul(what.cols / Q8Matrix::kBlock, Q8Matrix::kBlockBytes);
  const std::size_t start = checked_add(offset, checked_mul(what.first_row, width));
  return {std::move(file),
          start,
          Encoding::u8,
          {what.rows, width, checked_mul(what.row_step, width), 1}};
}

// A row of blocks as numbers; returns the sum of the squares of their spacings.
double decode_row(const std::byte* blocks, std::byte* halves, float* scales, float* out,
                  std::size_t count) {
  for (std::size_t b = 0; b < count; ++b) {
    std::memcpy(halves + b * kScaleBytes, blocks + b * Q8Matrix::kBlockBytes, kScaleBytes);
  }
  decode(Encoding::f16, halves, nullptr, scales, count, nullptr);
  double squares = 0.0;
  for (std::size_t b = 0; b < count; ++b) {
    const std::byte* const codes = blocks + b * Q8Matrix::kBlockBytes + kScaleBytes;
    const float scale = scales[b];
    for (std::size_t j = 0; j < Q8Matrix::kBlock; ++j) {
      out[b * Q8Matrix::kBlock + j] =
          scale * static_cast<float>(static_cast<signed char>(codes[j]));
    }
    squares += static_cast<double>(scale) * static_cast<double>(scale);
  }
  return squares * static_cast<double>(Q8Matrix::kBlock);
}

}  // namespace

Q8Matrix::Q8Matrix(std::shared_ptr<const MappedFile> file, std::size_t offset, const Rows& what)
    : StoredMatrix(what.rows, what.cols, DType::f32, true),
      blocks_(blocks_of(std::move(file), offset, what)) {}

void Q8Matrix::read(std::size_t first, std::size_t count, const Target& out) const {
  if (count == 0) return;
  AlignedBuffer<std::byte> scratch;
  const std::byte* const blocks = blocks_.open(first, count, scratch);
  const std::size_t width = cols() / kBlock;
  AlignedBuffer<std::byte> halves(width * kScaleBytes);
  AlignedBuffer<float> scales(width);
  double steps = 0.0;
  for (std::size_t i = 0; i < count; ++i) {
    steps += decode_row(blocks + i * width * kBlockBytes, halves.data(), scales.data(),
                        reinterpret_cast<float*>(out.data + i * out.ld), width);
  }
  if (out.steps != nullptr) *out.steps += steps;
}

bool Q8Matrix::same_bytes(const StoredMatrix& other, const CancelToken& cancel) const {
  const auto* const q8 = dynamic_cast<const Q8Matrix*>(&other);
  return q8 != nullptr && q8->cols() == cols() && blocks_.same(q8->blocks_, cancel);
}

}  // namespace loragraft
