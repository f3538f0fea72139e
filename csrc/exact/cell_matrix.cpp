#include "exact/cell_matrix.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <utility>
#include <vector>

#include "simd/isa.hpp"
#include "stored/plain_matrix.hpp"

namespace loragraft {
namespace {

// As in linalg/operators.cpp: such a tile stays in the L2 cache beside its operands.
constexpr std::size_t kSlabRows = 36;
constexpr std::size_t kTileCols = 2304;
constexpr std::size_t kTileLd = kTileCols + kWidthUnit;

// The gradient of the right factor is summed over groups of slabs: enough for the threads of one
// matrix, few enough that the partial sums stay small.
constexpr std::size_t kGroupRows = 144;
constexpr std::size_t kMaxGroups = 16;

float* tile_scratch() {
  thread_local const AlignedBuffer<float> buffer(kSlabRows * kTileLd);
  return buffer.data();
}

// The transpose, with rows padded by zeros: the last register tile of a row reads on.
Matrix<float> padded_transpose(MatrixView<const float> in, std::size_t rank) {
  Matrix<float> out(rank, round_up(in.rows, kWidthUnit));
  out.fill(0.0F);
  for (std::size_t j = 0; j < in.rows; ++j) {
    for (std::size_t k = 0; k < rank; ++k) out.row(k)[j] = in.row(j)[k];
  }
  return out;
}

void zero(MatrixView<float> matrix) {
  for (std::size_t i = 0; i < matrix.rows; ++i) std::fill_n(matrix.row(i), matrix.cols, 0.0F);
}

std::size_t slabs_per_group(std::size_t rows) {
  const std::size_t wanted = std::clamp<std::size_t>(rows / kGroupRows, 1, kMaxGroups);
  return std::max<std::size_t>(1, ceil_div(ceil_div(rows, kSlabRows), wanted));
}

void add_in_order(const std::vector<Matrix<float>>& parts, MatrixView<float> sum) {
  zero(sum);
  for (const Matrix<float>& part : parts) {
    for (std::size_t i = 0; i < sum.rows; ++i) {
      std::transform(sum.row(i), sum.row(i) + sum.cols, part.row(i), sum.row(i), std::plus<>());
    }
  }
}

void require(bool holds, const char* what) {
  if (!holds) throw Error(Errc::invalid_argument, what);
}

}  // namespace

// Entries (row0 + i, column0 + j) of L at data[i * kTileLd + j], and of both sides.
struct CellMatrix::Tile {
  float* data;
  std::size_t row0;
  std::size_t rows;
  std::size_t column0;
  std::size_t cols;
  const std::byte* base;   // of entry (row0, 0)
  const std::byte* tuned;  // of entry (row0, 0)
};

CellMatrix::CellMatrix(Side base, Side tuned, const CellOptions& options)
    : base_(std::move(base)),
      tuned_(std::move(tuned)),
      encoding_(options.encoding),
      format_(cell_format(options.encoding)),
      rule_{.half = std::ldexp(1.0F, -format_.mantissa - 1),
            .smallest = format_.smallest,
            .stretch = static_cast<float>(options.stretch),
            .slack = static_cast<float>(options.slack)} {
  require(base_->rows() == tuned_->rows() && base_->cols() == tuned_->cols(),
          "rounding cells: the two sides have different shapes");
  // Codes with scales have other cells than their numbers alone.
  const bool plain = dynamic_cast<const PlainMatrix*>(tuned_.get()) != nullptr;
  const bool fits = is_dtype(encoding_)
                        ? encoding_of(tuned_->dtype()) == encoding_
                        : plain && tuned_->dtype() == DType::f32 && tuned_->decoded();
  require(fits, "rounding cells: the tuned side is not stored in the format named");
  base_->require_weights();
  tuned_->require_weights();
}

template <class F>
void CellMatrix::for_each_tile(std::size_t first, std::size_t last, const Factored& factors,
                               const Matrix<float>& right_rows, const Run& run, F visit) const {
  AlignedBuffer<std::byte> base_scratch;
  AlignedBuffer<std::byte> tuned_scratch;
  for (std::size_t row = first * kSlabRows; row < std::min(rows(), last * kSlabRows);
       row += kSlabRows) {
    const std::size_t count = std::min(kSlabRows, rows() - row);
    const std::byte* const base = base_->open(row, count, base_scratch, nullptr);
    const std::byte* const tuned = tuned_->open(row, count, tuned_scratch, nullptr);
    for (std::size_t column = 0; column < cols(); column += kTileCols) {
      run.cancel.check();
      const Tile tile{tile_scratch(), row,  count, column, std::min(kTileCols, cols() - column),
                      base,           tuned};
      const std::size_t width = round_up(tile.cols, kWidthUnit);
      zero({tile.data, tile.rows, width, kTileLd});
      kernels().skinny(factors.left.row(row), factors.left.ld, 1, tile.rows, factors.rank,
                       right_rows.data() + column, right_rows.cols(), tile.data, kTileLd, width);
      visit(tile);
    }
  }
}

// The tile becomes R.
HingeSums CellMatrix::clip(const Tile& tile) const {
  const auto hinge = kernels().cells->hinge[static_cast<std::size_t>(base_->dtype())]
                                           [static_cast<std::size_t>(tuned_->dtype())];
  HingeSums sums;
  for (std::size_t i = 0; i < tile.rows; ++i) {
    const std::size_t at = i * cols() + tile.column0;
    hinge(tile.base + at * size_of(base_->dtype()), tile.tuned + at * size_of(tuned_->dtype()),
          rule_, tile.data + i * kTileLd, tile.cols, sums);
  }
  return sums;
}

HingeSums CellMatrix::evaluate(const Factored& factors, const Gradient& gradient,
                               const Run& run) const {
  const std::size_t width = factors.left.cols;
  const std::size_t slabs = ceil_div(rows(), kSlabRows);
  const std::size_t per_group = slabs_per_group(rows());
  const Matrix<float> right_rows = padded_transpose(factors.right, factors.rank);
  std::vector<Matrix<float>> partials(ceil_div(slabs, per_group));
  std::vector<HingeSums> sums(slabs);
  zero(gradient.left);
  run.pool.parallel_for(partials.size(), [&](std::size_t g) {
    partials[g] = Matrix<float>(cols(), width);
    partials[g].fill(0.0F);
    const auto visit = [&](const Tile& tile) {
      const HingeSums part = clip(tile);
      add_sums(sums[tile.row0 / kSlabRows], part);
      if (part.square == 0.0) return;
      kernels().skinny(tile.data, kTileLd, 1, tile.rows, tile.cols, factors.right.row(tile.column0),
                       factors.right.ld, gradient.left.row(tile.row0), gradient.left.ld, width);
      kernels().skinny(tile.data, 1, kTileLd, tile.cols, tile.rows, factors.left.row(tile.row0),
                       factors.left.ld, partials[g].row(tile.column0), width, width);
    };
    for_each_tile(g * per_group, std::min(slabs, (g + 1) * per_group), factors, right_rows, run,
                  visit);
  });
  add_in_order(partials, gradient.right);
  HingeSums total;
  for (const HingeSums& sum : sums) add_sums(total, sum);
  if (!std::isfinite(total.square)) throw Error(Errc::non_finite, "NaN or Inf");
  return total;
}

std::size_t CellMatrix::exact_in_row(const Tile& tile, std::size_t i) const {
  const std::size_t at = i * cols() + tile.column0;
  float* const sums = tile.data + i * kTileLd;
  thread_local const AlignedBuffer<float> values(kTileCols);
  thread_local const AlignedBuffer<std::byte> narrowed(kTileCols * sizeof(float));
  const auto widen = [&](const StoredMatrix& side, const std::byte* rows) {
    kernels().widen[static_cast<std::size_t>(side.dtype())](rows + at * size_of(side.dtype()),
                                                            values.data(), tile.cols);
  };
  widen(*base_, tile.base);
  std::transform(sums, sums + tile.cols, values.data(), sums, std::plus<>());
  std::size_t exact = 0;
  if (!is_dtype(encoding_)) {
    widen(*tuned_, tile.tuned);
    for (std::size_t j = 0; j < tile.cols; ++j) exact += rounds_to(format_, sums[j], values[j]);
    return exact;
  }
  kernels().narrow[static_cast<std::size_t>(tuned_->dtype())](sums, narrowed.data(), tile.cols);
  const std::byte* const stored = tile.tuned + at * sizeof(std::uint16_t);
  for (std::size_t j = 0; j < 2 * tile.cols; j += 2) {
    exact += stored[j] == narrowed[j] && stored[j + 1] == narrowed[j + 1];
  }
  return exact;
}

std::size_t CellMatrix::count_exact(const Factored& factors, const Run& run) const {
  const std::size_t slabs = ceil_div(rows(), kSlabRows);
  const Matrix<float> right_rows = padded_transpose(factors.right, factors.rank);
  std::vector<std::size_t> counts(slabs, 0);
  run.pool.parallel_for(slabs, [&](std::size_t s) {
    for_each_tile(s, s + 1, factors, right_rows, run, [&](const Tile& tile) {
      for (std::size_t i = 0; i < tile.rows; ++i) counts[s] += exact_in_row(tile, i);
    });
  });
  return std::accumulate(counts.begin(), counts.end(), std::size_t{0});
}

}  // namespace loragraft
