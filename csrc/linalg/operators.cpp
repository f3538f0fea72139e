#include "linalg/operators.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "simd/isa.hpp"

namespace loragraft {
namespace {

// A tile of 36 x 2304 floats (plus padding) stays in a 1 MiB L2 cache beside its operands, and its
// rows are long enough for the memory's prefetchers; 96 x 768 took 10 % longer. Both numbers are
// multiples of the register tiles' rows, and 2304 of kStepBlock.
constexpr std::size_t kSlabRows = 36;
constexpr std::size_t kTileCols = 2304;
// Rows of a tile must not all fall into the same cache set.
constexpr std::size_t kTileLd = kTileCols + kWidthUnit;

// Transposed products are summed over groups of slabs, one partial result per group: enough
// groups for the threads of one huge matrix, few enough that the partials stay small.
constexpr std::size_t kGroupRows = 1080;
constexpr std::size_t kMaxGroups = 16;

float* tile_scratch() {
  thread_local const AlignedBuffer<float> buffer(kSlabRows * kTileLd);
  return buffer.data();
}

struct Groups {
  std::size_t slabs;      // in all
  std::size_t per_group;  // slabs in each group but the last
  std::size_t count;
};

Groups group_slabs(std::size_t rows) {
  const std::size_t slabs = ceil_div(rows, kSlabRows);
  const std::size_t wanted = std::clamp<std::size_t>(rows / kGroupRows, 1, kMaxGroups);
  const std::size_t per_group = std::max<std::size_t>(1, ceil_div(slabs, wanted));
  return {slabs, per_group, ceil_div(slabs, per_group)};
}

void add_sums(TileSums& total, const TileSums& part) {
  total.delta += part.delta;
  total.base += part.base;
  total.binade += part.binade;
}

TileSums ordered_total(const std::vector<TileSums>& parts) {
  TileSums total;
  for (const TileSums& part : parts) add_sums(total, part);
  return total;
}

void zero(MatrixView<float> matrix) {
  for (std::size_t i = 0; i < matrix.rows; ++i) std::fill_n(matrix.row(i), matrix.cols, 0.0F);
}

// A copy whose row length is a multiple of kWidthUnit, the padding zero.
Matrix<float> padded_copy(MatrixView<const float> in) {
  Matrix<float> out(in.rows, round_up(in.cols, kWidthUnit));
  for (std::size_t i = 0; i < in.rows; ++i) {
    std::copy_n(in.row(i), in.cols, out.row(i));
    std::fill(out.row(i) + in.cols, out.row(i) + out.cols(), 0.0F);
  }
  return out;
}

void require(bool holds, const char* what) {
  if (!holds) throw Error(Errc::invalid_argument, what);
}

}  // namespace

// One formed tile: entries (row0 + i, column0 + j) at data[i * kTileLd + j].
struct LinearOperator::Tile {
  float* data;
  std::size_t row0;
  std::size_t rows;
  std::size_t column0;
  std::size_t cols;
};

template <class F>
void LinearOperator::for_each_tile(std::size_t slab_index, TileSums* sums, const Run& run,
                                   F visit) const {
  run.cancel.check();
  const std::size_t row0 = slab_index * kSlabRows;
  const std::size_t count = std::min(kSlabRows, rows_ - row0);
  const Slab slab = open_slab(row0, count);
  float* const data = tile_scratch();
  for (std::size_t column = 0; column < cols_; column += kTileCols) {
    const std::size_t width = std::min(kTileCols, cols_ - column);
    for (std::size_t i = 0; i < count; ++i) {
      float* const out = data + i * kTileLd;
      form(slab, i, column, width, out, sums);
      if (scale_ != 1.0F) {
        std::transform(out, out + width, out, [this](float x) { return x * scale_; });
      }
    }
    visit(Tile{data, row0, count, column, width});
  }
}

void LinearOperator::times(MatrixView<const float> x, MatrixView<float> y, const Run& run,
                           TileSums* sums) const {
  require(x.rows == cols_ && y.rows == rows_ && x.cols == y.cols && x.cols % kWidthUnit == 0,
          "times: operand shapes do not fit the operator");
  const Kernels& kernel = kernels();
  const std::size_t slabs = ceil_div(rows_, kSlabRows);
  std::vector<TileSums> parts(sums != nullptr ? slabs : 0);
  zero(y);
  run.pool.parallel_for(slabs, [&](std::size_t s) {
    for_each_tile(s, sums != nullptr ? &parts[s] : nullptr, run, [&](const Tile& tile) {
      kernel.skinny(tile.data, kTileLd, 1, tile.rows, tile.cols, x.row(tile.column0), x.ld,
                    y.row(tile.row0), y.ld, x.cols);
    });
  });
  if (sums != nullptr) *sums = ordered_total(parts);
}

void LinearOperator::transpose_times(MatrixView<const float> q, MatrixView<float> z,
                                     const Run& run) const {
  require(q.rows == rows_ && z.rows == cols_ && q.cols == z.cols && q.cols % kWidthUnit == 0,
          "transpose_times: operand shapes do not fit the operator");
  const Kernels& kernel = kernels();
  const Groups groups = group_slabs(rows_);
  // The first group sums straight into z.
  std::vector<Matrix<float>> partials(groups.count);
  run.pool.parallel_for(groups.count, [&](std::size_t g) {
    if (g > 0) partials[g] = Matrix<float>(z.rows, z.cols);
    const MatrixView<float> sum = g > 0 ? partials[g].view() : z;
    zero(sum);
    const std::size_t last = std::min(groups.slabs, (g + 1) * groups.per_group);
    for (std::size_t s = g * groups.per_group; s < last; ++s) {
      for_each_tile(s, nullptr, run, [&](const Tile& tile) {
        kernel.skinny(tile.data, 1, kTileLd, tile.cols, tile.rows, q.row(tile.row0), q.ld,
                      sum.row(tile.column0), sum.ld, q.cols);
      });
    }
  });
  for (std::size_t g = 1; g < groups.count; ++g) {
    for (std::size_t i = 0; i < z.rows; ++i) {
      std::transform(z.row(i), z.row(i) + z.cols, partials[g].row(i), z.row(i), std::plus<>());
    }
  }
}

double LinearOperator::residual(MatrixView<const float> left, MatrixView<const float> right,
                                const Run& run) const {
  require(left.rows == rows_ && right.cols == cols_ && left.cols == right.rows,
          "residual: factor shapes do not fit the operator");
  const Kernels& kernel = kernels();
  const Matrix<float> padded = padded_copy(right);
  const Matrix<float> negated = padded_copy(left);
  std::ranges::for_each(std::span(negated.data(), negated.size()), [](float& x) { x = -x; });
  const std::size_t slabs = ceil_div(rows_, kSlabRows);
  std::vector<double> parts(slabs, 0.0);
  run.pool.parallel_for(slabs, [&](std::size_t s) {
    for_each_tile(s, nullptr, run, [&](const Tile& tile) {
      kernel.skinny(negated.row(tile.row0), negated.cols(), 1, tile.rows, right.rows,
                    padded.data() + tile.column0, padded.cols(), tile.data, kTileLd,
                    round_up(tile.cols, kWidthUnit));
      for (std::size_t i = 0; i < tile.rows; ++i) {
        parts[s] += kernel.sum_squares(tile.data + i * kTileLd, tile.cols);
      }
    });
  });
  double total = 0.0;
  for (const double part : parts) total += part;
  return total;
}

TileSums LinearOperator::measure(const Run& run) const {
  const std::size_t slabs = ceil_div(rows_, kSlabRows);
  std::vector<TileSums> parts(slabs);
  run.pool.parallel_for(
      slabs, [&](std::size_t s) { for_each_tile(s, &parts[s], run, [](const Tile&) {}); });
  return ordered_total(parts);
}

void LinearOperator::materialize(MatrixView<double> out, const Run& run) const {
  require(out.rows == rows_ && out.cols == cols_, "materialize: shapes differ");
  run.pool.parallel_for(ceil_div(rows_, kSlabRows), [&](std::size_t s) {
    for_each_tile(s, nullptr, run, [&](const Tile& tile) {
      for (std::size_t i = 0; i < tile.rows; ++i) {
        std::copy_n(tile.data + i * kTileLd, tile.cols, out.row(tile.row0 + i) + tile.column0);
      }
    });
  });
}

DeltaOperator::DeltaOperator(StoredMatrix base, StoredMatrix tuned)
    : LinearOperator(base.rows, base.cols), base_(std::move(base)), tuned_(std::move(tuned)) {
  require(base_.rows == tuned_.rows && base_.cols == tuned_.cols,
          "the two sides of a difference have different shapes");
}

namespace {

std::span<const std::byte> read_rows(const StoredMatrix& matrix, std::size_t row, std::size_t count,
                                     AlignedBuffer<std::byte>& scratch) {
  const std::size_t row_bytes = checked_mul(matrix.cols, size_of(matrix.dtype));
  const std::size_t length = checked_mul(count, row_bytes);
  if (!matrix.file->mapped() && scratch.size() < length) scratch = AlignedBuffer<std::byte>(length);
  return matrix.file->bytes(checked_add(matrix.offset, checked_mul(row, row_bytes)), length,
                            scratch.span());
}

}  // namespace

LinearOperator::Slab DeltaOperator::open_slab(std::size_t row, std::size_t count) const {
  Slab slab;
  slab.base = read_rows(base_, row, count, slab.base_scratch).data();
  slab.tuned = read_rows(tuned_, row, count, slab.tuned_scratch).data();
  return slab;
}

void DeltaOperator::form(const Slab& slab, std::size_t row, std::size_t column, std::size_t count,
                         float* out, TileSums* sums) const {
  const std::size_t first = row * cols() + column;
  const std::byte* base = slab.base + first * size_of(base_.dtype);
  const std::byte* tuned = slab.tuned + first * size_of(tuned_.dtype);
  const auto b = static_cast<std::size_t>(base_.dtype);
  const auto t = static_cast<std::size_t>(tuned_.dtype);
  if (sums != nullptr) {
    kernels().delta_sums[b][t](base, tuned, out, count, *sums);
  } else {
    kernels().delta[b][t](base, tuned, out, count);
  }
}

bool DeltaOperator::identical(const Run& run) const {
  if (base_.dtype != tuned_.dtype) return false;
  for (std::size_t row = 0; row < rows(); row += kSlabRows) {
    run.cancel.check();
    const std::size_t count = std::min(kSlabRows, rows() - row);
    const Slab slab = open_slab(row, count);
    if (std::memcmp(slab.base, slab.tuned, count * cols() * size_of(base_.dtype)) != 0) {
      return false;
    }
  }
  return true;
}

LinearOperator::Slab DenseOperator::open_slab(std::size_t row, std::size_t) const {
  Slab slab;
  slab.base = reinterpret_cast<const std::byte*>(matrix_.row(row));
  return slab;
}

void DenseOperator::form(const Slab& slab, std::size_t row, std::size_t column, std::size_t count,
                         float* out, TileSums* sums) const {
  const float* first = reinterpret_cast<const float*>(slab.base) + row * matrix_.ld + column;
  std::copy_n(first, count, out);
  if (sums != nullptr) sums->delta += kernels().sum_squares(out, count);
}

}  // namespace loragraft
