#include "stored/scaled_matrix.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "stored/decoding.hpp"

namespace loragraft {
namespace {

constexpr std::size_t kMicroBlock = 32;

std::string shape_of(std::size_t rows, std::size_t cols) {
  return "[" + std::to_string(rows) + ", " + std::to_string(cols) + "]";
}

StridedNumbers rows_from(const std::shared_ptr<const MappedFile>& file, std::size_t offset,
                         Encoding encoding, const ScaledMatrix::Microscaled& what,
                         std::size_t cols) {
  const std::size_t start = checked_add(offset, checked_mul(what.first_row, cols));
  return {file, start, encoding, {what.rows, cols, checked_mul(what.row_step, cols), 1}};
}

}  // namespace

ScaledMatrix::ScaledMatrix(const StridedNumbers& codes, StridedNumbers scales, Block block,
                           double factor)
    : ScaledMatrix(codes, codes.cols(), codes.encoding(), std::move(scales), block, factor) {}

ScaledMatrix::ScaledMatrix(StridedNumbers codes, std::size_t cols, Encoding encoding,
                           StridedNumbers scales, Block block, double factor)
    : StoredMatrix(codes.rows(), cols, DType::f32, true),
      codes_(std::move(codes)),
      encoding_(encoding),
      scales_(std::move(scales)),
      block_(block),
      factor_(factor) {
  const Encoding scale = scales_.encoding();
  if (encoding_ == Encoding::f8_e8m0 || !(is_dtype(scale) || scale == Encoding::f8_e8m0)) {
    throw Error(Errc::invalid_argument, std::string("codes of dtype ") + encoding_code(encoding_) +
                                            " with scales of dtype " + encoding_code(scale) +
                                            ": expected scales in BF16, F16, F32 or F8_E8M0");
  }
  if (block_.rows == 0 || block_.cols == 0 || !std::isfinite(factor_)) {
    throw Error(Errc::invalid_argument, "scales: expected blocks of 1 x 1 or more, and a number");
  }
  const std::size_t down = ceil_div(rows(), block_.rows);
  const std::size_t across = ceil_div(this->cols(), block_.cols);
  if (scales_.rows() != down || scales_.cols() != across) {
    throw Error(Errc::format, scales_.file().path() + ": scales of shape " +
                                  shape_of(scales_.rows(), scales_.cols()) +
                                  " for codes of shape " + shape_of(rows(), this->cols()) +
                                  " in blocks of " + shape_of(block_.rows, block_.cols) +
                                  ": expected " + shape_of(down, across));
  }
}

std::unique_ptr<ScaledMatrix> ScaledMatrix::microscaled(const Microscaled& what) {
  if (what.cols % kMicroBlock != 0) {
    throw Error(Errc::format, what.blocks_file->path() + ": " + std::to_string(what.cols) +
                                  " columns of MXFP4: expected a multiple of 32");
  }
  StridedNumbers codes =
      rows_from(what.blocks_file, what.blocks_offset, Encoding::u8, what, what.cols / 2);
  StridedNumbers scales = rows_from(what.scales_file, what.scales_offset, Encoding::f8_e8m0, what,
                                    what.cols / kMicroBlock);
  return std::unique_ptr<ScaledMatrix>(new ScaledMatrix(
      std::move(codes), what.cols, Encoding::f4_e2m1, std::move(scales), {1, kMicroBlock}, 1.0));
}

// Rows of scales, times the factor.
Matrix<float> ScaledMatrix::read_scales(std::size_t first, std::size_t count) const {
  AlignedBuffer<std::byte> scratch;
  const std::byte* const stored = scales_.open(first, count, scratch);
  Matrix<float> out(count, scales_.cols());
  decode(scales_.encoding(), stored, nullptr, out.data(), out.size(), nullptr);
  std::transform(out.data(), out.data() + out.size(), out.data(), [this](float scale) {
    return static_cast<float>(factor_ * static_cast<double>(scale));
  });
  return out;
}

// A row of scales, each as often as its block has columns.
void ScaledMatrix::spread(const float* scales, float* out) const {
  for (std::size_t j = 0; j < cols(); j += block_.cols) {
    std::fill_n(out + j, std::min(block_.cols, cols() - j), *scales++);
  }
}

void ScaledMatrix::read(std::size_t first, std::size_t count, const Target& out) const {
  if (count == 0) return;
  AlignedBuffer<std::byte> scratch;
  const std::byte* const codes = codes_.open(first, count, scratch);
  const std::size_t top = first / block_.rows;
  const Matrix<float> scales = read_scales(top, (first + count - 1) / block_.rows - top + 1);
  const AlignedBuffer<float> row_scales(cols());
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t row = first + i;
    if (i == 0 || row % block_.rows == 0) {
      spread(scales.row(row / block_.rows - top), row_scales.data());
    }
    decode(encoding_, codes + i * bytes_of(encoding_, cols()), row_scales.data(),
           reinterpret_cast<float*>(out.data + i * out.ld), cols(), out.steps);
  }
}

bool ScaledMatrix::same_bytes(const StoredMatrix& other, const CancelToken& cancel) const {
  const auto* const scaled = dynamic_cast<const ScaledMatrix*>(&other);
  return scaled != nullptr && scaled->encoding_ == encoding_ && scaled->block_ == block_ &&
         scaled->factor_ == factor_ && codes_.same(scaled->codes_, cancel) &&
         scales_.same(scaled->scales_, cancel);
}

const std::string& ScaledMatrix::path_at(std::size_t row, std::size_t col) const {
  const Matrix<float> scales = read_scales(row / block_.rows, 1);
  const bool blame = !std::isfinite(scales.row(0)[col / block_.cols]);
  return (blame ? scales_ : codes_).file().path();
}

}  // namespace loragraft
