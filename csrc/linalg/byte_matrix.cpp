#include "linalg/byte_matrix.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "simd/isa.hpp"

namespace loragraft {
namespace {

// Rows that are multiplied from the left together, a multiple of the rows of a register tile and of
// kByteStep: 252 x 2048 interleaved bytes stay in the L2 cache, and their sums too.
constexpr std::size_t kChunkRows = 252;
constexpr std::size_t kBackCols = 2048;
// Columns multiplied from the right together: as many rows of the operand stay in the L2 cache.
constexpr std::size_t kTileCols = 2048;
// Chunks that are there at a time where there is no space for all.
constexpr std::size_t kWindow = 4;
// Smaller entries are zero beside anything that matters; reciprocals stay finite.
constexpr float kSmallestPeak = 1e-30F;

// A power of two: differences of numbers with few digits are multiples of one, and most of them
// are split without any error. Other units make errors that go with the entries.
float unit_of(float peak) {
  if (peak < kSmallestPeak) return 0.0F;
  int exponent = 0;
  const float mantissa = std::frexp(peak / kByteUnits, &exponent);
  return std::ldexp(1.0F, mantissa > 0.5F ? exponent : exponent - 1);
}

// Of what a unit's row counts in, the high byte.
float scale_of(float unit) { return 256.0F * unit; }
float reciprocal(float x) { return x > 0.0F ? 1.0F / x : 0.0F; }

// The padding keeps rows of a power of two of columns out of one another's cache sets.
std::size_t row_bytes(const LinearOperator& source) {
  return round_up(source.cols(), kByteUnit) + kByteUnit;
}

// A thread's own memory between two chunks.
struct Scratch {
  AlignedBuffer<std::uint8_t> mixed{kBackCols * kChunkRows};
  AlignedBuffer<float> sums;
};

Scratch& scratch() {
  thread_local Scratch buffers;
  return buffers;
}

MatrixView<float> matrix_in(AlignedBuffer<float>& buffer, std::size_t rows, std::size_t cols) {
  if (buffer.size() < rows * cols) buffer = AlignedBuffer<float>(rows * cols);
  return {buffer.data(), rows, cols, cols};
}

void require_fit(MatrixView<const float> in, MatrixView<const float> out, std::size_t rows_in,
                 std::size_t rows_out) {
  if (in.rows == rows_in && out.rows == rows_out && in.cols == out.cols &&
      in.cols % kWidthUnit == 0) {
    return;
  }
  throw Error(Errc::invalid_argument, "byte product: operand shapes do not fit the matrix");
}

void copy_rows(MatrixView<const float> from, MatrixView<float> to) {
  for (std::size_t i = 0; i < from.rows; ++i) std::copy_n(from.row(i), from.cols, to.row(i));
}

}  // namespace

struct ByteMatrix::Rows {
  std::size_t first;
  std::size_t count;
  std::uint8_t* high;
  std::uint8_t* low;
};

std::size_t ByteMatrix::bytes_for(const LinearOperator& source) {
  const std::size_t rows = ceil_div(source.rows(), kChunkRows) * kChunkRows;
  return checked_mul(2 * rows, row_bytes(source));
}

ByteMatrix::ByteMatrix(const LinearOperator& source, std::span<std::byte> space)
    : source_(source),
      ld_(row_bytes(source)),
      chunks_(ceil_div(source.rows(), kChunkRows)),
      units_(source.rows()),
      errors_(source.rows()) {
  const std::size_t chunk_bytes = checked_mul(2 * kChunkRows, ld_);
  std::size_t room = space.size() / chunk_bytes;
  if (room < std::min(chunks_, kWindow)) {
    room = std::min(chunks_, kWindow);
    own_space_ = AlignedBuffer<std::byte>(checked_mul(room, chunk_bytes));
    space = own_space_.span();
  }
  stored_ = room >= chunks_ ? chunks_ : room - kWindow;
  window_ = kWindow;
  bytes_ = reinterpret_cast<std::uint8_t*>(space.data());
}

ByteMatrix::Rows ByteMatrix::chunk_at(std::size_t index) const {
  const std::size_t first = index * kChunkRows;
  const std::size_t slot = index < stored_ ? index : stored_ + (index - stored_) % window_;
  const std::size_t plane = kChunkRows * ld_;
  std::uint8_t* const high = bytes_ + slot * 2 * plane;
  return {first, std::min(kChunkRows, source_.rows() - first), high, high + plane};
}

// Visit runs of chunks that are in memory together: visit(first, last, kept).
template <class F>
void ByteMatrix::for_each_band(F visit) const {
  if (stored_ > 0) visit(std::size_t{0}, stored_, true);
  for (std::size_t first = stored_; first < chunks_; first += window_) {
    visit(first, std::min(chunks_, first + window_), false);
  }
}

float ByteMatrix::split_row(const Rows& rows, std::size_t row, float* entries) const {
  const std::size_t padded = round_up(source_.cols(), kByteUnit);
  std::fill(entries + source_.cols(), entries + padded, 0.0F);
  const std::size_t at = (row - rows.first) * ld_;
  return kernels().bytes->split(entries, padded, reciprocal(units_[row]), rows.high + at,
                                rows.low + at);
}

// The bytes of chunks that were not kept.
void ByteMatrix::form_band(std::size_t first, std::size_t last, const Run& run) const {
  run.pool.parallel_for(last - first, [&](std::size_t c) {
    run.cancel.check();
    const Rows chunk = chunk_at(first + c);
    source_.visit_rows(chunk.first, chunk.count, nullptr,
                       [&](std::size_t row, float* entries) { split_row(chunk, row, entries); });
  });
}

TileSums ByteMatrix::form(const Run& run) {
  std::vector<TileSums> parts(chunks_);
  for_each_band([&](std::size_t first, std::size_t last, bool) {
    run.pool.parallel_for(last - first, [&](std::size_t c) {
      run.cancel.check();
      const Rows chunk = chunk_at(first + c);
      source_.visit_rows(chunk.first, chunk.count, &parts[first + c],
                         [&](std::size_t i, float* entries) {
                           units_[i] = unit_of(kernels().bytes->peak(entries, source_.cols()));
                           errors_[i] = split_row(chunk, i, entries);
                         });
    });
  });
  TileSums sums;
  for (const TileSums& part : parts) add_sums(sums, part);
  return sums;
}

void ByteMatrix::times(MatrixView<float> x, MatrixView<float> y, Precision precision,
                       const Run& run) {
  require_fit(x, y, source_.cols(), source_.rows());
  ByteOperand operand(x.rows, kTileCols, x.cols);
  operand.pack(x);
  operand.unpack(x, precision == Precision::fine);
  for_each_band([&](std::size_t first, std::size_t last, bool kept) {
    if (!kept) form_band(first, last, run);
    run.pool.parallel_for(last - first, [&](std::size_t c) {
      run.cancel.check();
      multiply(chunk_at(first + c), operand, y, precision);
    });
  });
}

void ByteMatrix::multiply(const Rows& rows, const ByteOperand& x, MatrixView<float> y,
                          Precision precision) const {
  std::array<float, kChunkRows> scales{};
  const float* const units = units_.data() + rows.first;
  std::transform(units, units + rows.count, scales.begin(), scale_of);
  for (std::size_t i = 0; i < rows.count; ++i) std::fill_n(y.row(rows.first + i), y.cols, 0.0F);
  for (std::size_t column = 0; column < source_.cols(); column += kTileCols) {
    const std::size_t t = column / kTileCols;
    const auto add = [&](const std::uint8_t* a, const ByteOperand::Plane& b) {
      kernels().bytes->multiply(
          {.a = a + column,
           .row_stride = ld_,
           .step_stride = kByteStep,
           .rows = rows.count,
           .steps = ceil_div(std::min(kTileCols, source_.cols() - column), kByteStep),
           .b = b.bytes,
           .b_sums = b.sums,
           .row_scale = scales.data(),
           .column_scale = b.scale,
           .c = y.row(rows.first),
           .ldc = y.ld,
           .width = y.cols});
    };
    const bool fine = precision == Precision::fine;
    add(rows.high, x.high(t));
    if (fine || x.needs_low(t)) add(rows.high, x.low(t));
    if (!fine) continue;
    add(rows.low, x.high_with_low(t));
    add(rows.low, x.low_with_low(t));
  }
}

void ByteMatrix::transpose_times(MatrixView<float> q, MatrixView<float> z, Precision precision,
                                 const Run& run) {
  require_fit(q, z, source_.rows(), source_.cols());
  const Matrix<float> scaled(q.rows, q.cols);
  const auto scale_rows = [&](MatrixView<const float> from, MatrixView<float> to, auto scale) {
    for (std::size_t i = 0; i < q.rows; ++i) {
      std::transform(from.row(i), from.row(i) + q.cols, to.row(i),
                     [by = scale(units_[i])](float x) { return x * by; });
    }
  };
  scale_rows(q, scaled.view(), scale_of);
  ByteOperand operand(q.rows, kChunkRows, q.cols);
  operand.pack(scaled.view());
  operand.unpack(scaled.view(), precision == Precision::fine);
  scale_rows(scaled.view(), q, [](float unit) { return reciprocal(scale_of(unit)); });
  for (std::size_t i = 0; i < z.rows; ++i) std::fill_n(z.row(i), z.cols, 0.0F);
  for_each_band([&](std::size_t first, std::size_t last, bool kept) {
    if (!kept) form_band(first, last, run);
    run.pool.parallel_for(ceil_div(source_.cols(), kBackCols), [&](std::size_t part) {
      run.cancel.check();
      multiply_back(part * kBackCols, first, last, operand, z, precision);
    });
  });
}

// Rows column ... column + kBackCols of z += of A^T q, summed over the rows of some chunks.
void ByteMatrix::multiply_back(std::size_t column, std::size_t first, std::size_t last,
                               const ByteOperand& q, MatrixView<float> z,
                               Precision precision) const {
  const std::size_t cols = std::min(kBackCols, source_.cols() - column);
  // Whole blocks are summed, with columns that are not there at the end.
  const MatrixView<float> sum = matrix_in(scratch().sums, round_up(cols, kByteUnit), z.cols);
  const MatrixView<float> out{z.row(column), cols, z.cols, z.ld};
  copy_rows(out, sum);
  std::fill(sum.row(cols), sum.row(sum.rows), 0.0F);
  for (std::size_t c = first; c < last; ++c) multiply_back(chunk_at(c), column, q, sum, precision);
  copy_rows({sum.data, cols, sum.cols, sum.ld}, out);
}

void ByteMatrix::multiply_back(const Rows& rows, std::size_t column, const ByteOperand& q,
                               MatrixView<float> sum, Precision precision) const {
  static constexpr auto kPlaces = interleaved_columns();
  const ByteKernels& kernel = *kernels().bytes;
  const std::size_t c = rows.first / kChunkRows;
  const std::size_t quads = ceil_div(rows.count, kByteStep);
  const std::size_t blocks = sum.rows / kByteUnit;
  const std::size_t block_bytes = quads * kByteStep * kByteUnit;
  std::uint8_t* const mixed = scratch().mixed.data();
  const auto mix = [&](const std::uint8_t* plane) {
    for (std::size_t s = 0; s < quads; ++s) {
      kernel.interleave(plane + s * kByteStep * ld_ + column, ld_, blocks,
                        mixed + s * kByteStep * kByteUnit, block_bytes);
    }
  };
  const auto add = [&](const ByteOperand::Plane& b) {
    for (std::size_t block = 0; block < blocks; ++block) {
      kernel.multiply({.a = mixed + block * block_bytes,
                       .row_stride = kByteStep,
                       .step_stride = kByteStep * kByteUnit,
                       .rows = kByteUnit,
                       .steps = quads,
                       .b = b.bytes,
                       .b_sums = b.sums,
                       .row_scale = nullptr,
                       .column_scale = b.scale,
                       .c = sum.row(block * kByteUnit),
                       .ldc = sum.ld,
                       .width = sum.cols,
                       .places = kPlaces.data()});
    }
  };
  mix(rows.high);
  const bool fine = precision == Precision::fine;
  add(q.high(c));
  if (fine || q.needs_low(c)) add(q.low(c));
  if (!fine) return;
  mix(rows.low);
  add(q.high_with_low(c));
  add(q.low_with_low(c));
}

double ByteMatrix::error_square(Precision precision) const {
  // A high byte is wrong by half of its 256 units at the most, evenly.
  const double coarse = 256.0 * 256.0 / 12.0 * static_cast<double>(source_.cols());
  double sum = 0.0;
  for (std::size_t i = 0; i < source_.rows(); ++i) {
    const auto unit = static_cast<double>(units_[i]);
    sum +=
        unit * unit * (precision == Precision::coarse ? coarse : static_cast<double>(errors_[i]));
  }
  return sum;
}

double ByteMatrix::effective_rows() const {
  double squares = 0.0;
  double fourths = 0.0;
  for (const float unit : units_.span()) {
    const double square = static_cast<double>(unit) * static_cast<double>(unit);
    squares += square;
    fourths += square * square;
  }
  return fourths > 0.0 ? squares * squares / fourths : 0.0;
}

}  // namespace loragraft
