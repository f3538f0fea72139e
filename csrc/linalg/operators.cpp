#include "linalg/operators.hpp"

#include <algorithm>
#include <functional>
#include <numeric>
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

// A slab formed whole, to be used twice, is worth it while the slab and both operands stay in a
// 2 MiB L2 cache; all 8,192 columns of a wide matrix do not.
constexpr std::size_t kWholePassFloats = std::size_t{448} * 1024;
constexpr std::size_t kWholeSlabFloats = std::size_t{128} * 1024;
// Rows of a register tile on the widest ISA; slabs are multiples of it.
constexpr std::size_t kRowUnit = 12;

// Slabs worked on together, column block by column block. Where files are read rather than mapped,
// their bytes are held meanwhile: 8 slabs of 8,192 bf16 columns are 9 MiB.
std::size_t block_slabs(std::size_t cols) {
  return std::clamp<std::size_t>(std::size_t{8} * 8192 / std::max<std::size_t>(1, cols), 1, 8);
}

float* tile_scratch() {
  thread_local const AlignedBuffer<float> buffer(kSlabRows * kTileLd);
  return buffer.data();
}

float* slab_scratch(std::size_t size) {
  thread_local AlignedBuffer<float> buffer;
  if (buffer.size() < size) buffer = AlignedBuffer<float>(size);
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

// A formed tile: entries (row0 + i, column0 + j) at data[i * ld + j].
struct LinearOperator::Tile {
  float* data;
  std::size_t ld;
  std::size_t row0;
  std::size_t rows;
  std::size_t column0;
  std::size_t cols;
};

void LinearOperator::form_rows(const Slab& slab, std::size_t first, const Tile& tile,
                               TileSums* sums) const {
  for (std::size_t i = 0; i < tile.rows; ++i) {
    float* const out = tile.data + i * tile.ld;
    form(slab, first + i, tile.column0, tile.cols, out, sums);
    if (scale_ != 1.0F) {
      std::transform(out, out + tile.cols, out, [this](float x) { return x * scale_; });
    }
  }
}

// Visit the tiles of slabs [first, last), columns outermost: the rows of the operand that belong to
// a tile's columns then stay in the cache while many slabs pass. `sums` has one entry per slab.
template <class F>
void LinearOperator::for_each_tile(std::size_t first, std::size_t last, TileSums* sums,
                                   const Run& run, F visit) const {
  const std::size_t row0 = first * kSlabRows;
  const std::size_t count = std::min(rows_, last * kSlabRows) - row0;
  Slab slab;
  open_slab(row0, count, slab, sums != nullptr ? &sums[first] : nullptr);
  for (std::size_t column = 0; column < cols_; column += kTileCols) {
    const std::size_t width = std::min(kTileCols, cols_ - column);
    for (std::size_t s = first; s < last; ++s) {
      run.cancel.check();
      const std::size_t row = s * kSlabRows;
      const Tile tile{tile_scratch(), kTileLd, row, std::min(kSlabRows, rows_ - row),
                      column,         width};
      form_rows(slab, row - row0, tile, sums != nullptr ? &sums[s] : nullptr);
      visit(tile);
    }
  }
}

// The same over all slabs, in parallel; `visit` must write to places of its tile's slab alone.
template <class F>
void LinearOperator::for_all_tiles(std::vector<TileSums>* sums, const Run& run, F visit) const {
  const std::size_t slabs = ceil_div(rows_, kSlabRows);
  const std::size_t step = block_slabs(cols_);
  if (sums != nullptr) sums->assign(slabs, {});
  run.pool.parallel_for(ceil_div(slabs, step), [&](std::size_t block) {
    for_each_tile(block * step, std::min(slabs, (block + 1) * step),
                  sums != nullptr ? sums->data() : nullptr, run, visit);
  });
}

void LinearOperator::times(MatrixView<const float> x, MatrixView<float> y, const Run& run,
                           TileSums* sums) const {
  require(x.rows == cols_ && y.rows == rows_ && x.cols == y.cols && x.cols % kWidthUnit == 0,
          "times: operand shapes do not fit the operator");
  const Kernels& kernel = kernels();
  std::vector<TileSums> parts;
  zero(y);
  for_all_tiles(sums != nullptr ? &parts : nullptr, run, [&](const Tile& tile) {
    kernel.skinny(tile.data, tile.ld, 1, tile.rows, tile.cols, x.row(tile.column0), x.ld,
                  y.row(tile.row0), y.ld, x.cols);
  });
  if (sums != nullptr) *sums = ordered_total(parts);
}

// z = the sum over all groups of what `add(group, sum)` adds to zero, in the groups' order.
template <class F>
void LinearOperator::sum_over_groups(MatrixView<float> z, const Run& run, F add) const {
  const Groups groups = group_slabs(rows_);
  // The first group sums straight into z.
  std::vector<Matrix<float>> partials(groups.count);
  run.pool.parallel_for(groups.count, [&](std::size_t g) {
    if (g > 0) partials[g] = Matrix<float>(z.rows, z.cols);
    const MatrixView<float> sum = g > 0 ? partials[g].view() : z;
    zero(sum);
    const std::size_t first = g * groups.per_group;
    add(first, std::min(groups.slabs, first + groups.per_group), sum);
  });
  for (std::size_t g = 1; g < groups.count; ++g) {
    for (std::size_t i = 0; i < z.rows; ++i) {
      std::transform(z.row(i), z.row(i) + z.cols, partials[g].row(i), z.row(i), std::plus<>());
    }
  }
}

void LinearOperator::transpose_times(MatrixView<const float> q, MatrixView<float> z,
                                     const Run& run) const {
  require(q.rows == rows_ && z.rows == cols_ && q.cols == z.cols && q.cols % kWidthUnit == 0,
          "transpose_times: operand shapes do not fit the operator");
  const Kernels& kernel = kernels();
  sum_over_groups(z, run, [&](std::size_t first, std::size_t last, MatrixView<float> sum) {
    const std::size_t step = block_slabs(cols_);
    for (std::size_t s = first; s < last; s += step) {
      for_each_tile(s, std::min(last, s + step), nullptr, run, [&](const Tile& tile) {
        kernel.skinny(tile.data, 1, tile.ld, tile.cols, tile.rows, q.row(tile.row0), q.ld,
                      sum.row(tile.column0), sum.ld, q.cols);
      });
    }
  });
}

bool LinearOperator::back_pays(std::size_t width) const {
  const std::size_t floats = checked_mul(cols_, 2 * width + kRowUnit);
  return floats <= kWholePassFloats;
}

void LinearOperator::times_and_back(MatrixView<const float> x, MatrixView<float> y,
                                    MatrixView<float> z, const Run& run, TileSums* sums) const {
  require(x.rows == cols_ && y.rows == rows_ && z.rows == cols_ && x.cols == y.cols &&
              x.cols == z.cols && x.cols % kWidthUnit == 0,
          "times_and_back: operand shapes do not fit the operator");
  const Kernels& kernel = kernels();
  const std::size_t ld = round_up(cols_, kWidthUnit) + kWidthUnit;
  const std::size_t height =
      std::clamp(kWholeSlabFloats / ld / kRowUnit * kRowUnit, kRowUnit, kSlabRows);
  std::vector<TileSums> parts(sums != nullptr ? ceil_div(rows_, kSlabRows) : 0);
  zero(y);
  sum_over_groups(z, run, [&](std::size_t first, std::size_t last, MatrixView<float> sum) {
    const std::size_t end = std::min(rows_, last * kSlabRows);
    float* const data = slab_scratch(checked_mul(height, ld));
    Slab slab;
    for (std::size_t row0 = first * kSlabRows; row0 < end; row0 += height) {
      run.cancel.check();
      const Tile tile{data, ld, row0, std::min(height, end - row0), 0, cols_};
      TileSums* const part = sums != nullptr ? &parts[row0 / kSlabRows] : nullptr;
      open_slab(row0, tile.rows, slab, part);
      form_rows(slab, 0, tile, part);
      kernel.skinny(data, ld, 1, tile.rows, cols_, x.data, x.ld, y.row(row0), y.ld, x.cols);
      kernel.skinny(data, 1, ld, cols_, tile.rows, y.row(row0), y.ld, sum.data, sum.ld, x.cols);
    }
  });
  if (sums != nullptr) *sums = ordered_total(parts);
}

double LinearOperator::residual(MatrixView<const float> left, MatrixView<const float> right,
                                const Run& run) const {
  require(left.rows == rows_ && right.cols == cols_ && left.cols == right.rows,
          "residual: factor shapes do not fit the operator");
  const Kernels& kernel = kernels();
  const Matrix<float> padded = padded_copy(right);
  const Matrix<float> negated = padded_copy(left);
  std::ranges::for_each(std::span(negated.data(), negated.size()), [](float& x) { x = -x; });
  std::vector<double> parts(ceil_div(rows_, kSlabRows), 0.0);
  for_all_tiles(nullptr, run, [&](const Tile& tile) {
    // The last tile's padding takes part in the product, though nobody reads it.
    const std::size_t width = round_up(tile.cols, kWidthUnit);
    for (std::size_t i = 0; i < tile.rows; ++i) {
      std::fill(tile.data + i * tile.ld + tile.cols, tile.data + i * tile.ld + width, 0.0F);
    }
    kernel.skinny(negated.row(tile.row0), negated.cols(), 1, tile.rows, right.rows,
                  padded.data() + tile.column0, padded.cols(), tile.data, tile.ld, width);
    for (std::size_t i = 0; i < tile.rows; ++i) {
      parts[tile.row0 / kSlabRows] += kernel.sum_squares(tile.data + i * tile.ld, tile.cols);
    }
  });
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

void LinearOperator::visit_rows(
    std::size_t first, std::size_t count, TileSums* sums,
    const std::function<void(std::size_t row, float* entries)>& visit) const {
  float* const row = slab_scratch(checked_add(cols_, kByteUnit));
  const std::size_t step = rows_at_once();
  Slab slab;
  for (std::size_t done = 0; done < count; done += step) {
    const std::size_t some = std::min(step, count - done);
    open_slab(first + done, some, slab, sums);
    for (std::size_t i = 0; i < some; ++i) {
      const std::size_t at = first + done + i;
      const Tile tile{row, 0, at, 1, 0, cols_};
      form_rows(slab, i, tile, sums);
      visit(at, row);
    }
  }
}

void LinearOperator::form_part(const Part& part, float* out, std::size_t ld, TileSums* sums) const {
  Slab slab;
  open_slab(part.row, part.rows, slab, nullptr);
  form_rows(slab, 0, {out, ld, part.row, part.rows, part.column, part.cols}, sums);
}

TileSums LinearOperator::measure(const Run& run) const {
  std::vector<TileSums> parts;
  for_all_tiles(&parts, run, [](const Tile&) {});
  return ordered_total(parts);
}

void LinearOperator::materialize(MatrixView<double> out, const Run& run) const {
  require(out.rows == rows_ && out.cols == cols_, "materialize: shapes differ");
  for_all_tiles(nullptr, run, [&](const Tile& tile) {
    for (std::size_t i = 0; i < tile.rows; ++i) {
      std::copy_n(tile.data + i * tile.ld, tile.cols, out.row(tile.row0 + i) + tile.column0);
    }
  });
}

DeltaOperator::DeltaOperator(Side base, Side tuned)
    : LinearOperator(base->rows(), base->cols()), base_(std::move(base)), tuned_(std::move(tuned)) {
  require(base_->rows() == tuned_->rows() && base_->cols() == tuned_->cols(),
          "the two sides of a difference have different shapes");
  base_->require_weights();
  tuned_->require_weights();
}

void DeltaOperator::open_slab(std::size_t row, std::size_t count, Slab& slab,
                              TileSums* sums) const {
  slab.base = base_->open(row, count, slab.base_scratch, nullptr);
  slab.tuned =
      tuned_->open(row, count, slab.tuned_scratch, sums != nullptr ? &sums->steps : nullptr);
}

std::size_t DeltaOperator::rows_at_once() const {
  return std::max(base_->rows_at_once(), tuned_->rows_at_once());
}

void DeltaOperator::form(const Slab& slab, std::size_t row, std::size_t column, std::size_t count,
                         float* out, TileSums* sums) const {
  const std::size_t first = row * cols() + column;
  const std::byte* base = slab.base + first * size_of(base_->dtype());
  const std::byte* tuned = slab.tuned + first * size_of(tuned_->dtype());
  const auto b = static_cast<std::size_t>(base_->dtype());
  const auto t = static_cast<std::size_t>(tuned_->dtype());
  if (sums != nullptr) {
    kernels().delta_sums[b][t](base, tuned, out, count, *sums);
  } else {
    kernels().delta[b][t](base, tuned, out, count);
  }
}

bool DeltaOperator::identical(const Run& run) const {
  return base_->same_bytes(*tuned_, run.cancel);
}

StoredOperator::StoredOperator(Source source)
    : LinearOperator(source->rows(), source->cols()), source_(std::move(source)) {
  source_->require_weights();
}

void StoredOperator::open_slab(std::size_t row, std::size_t count, Slab& slab, TileSums*) const {
  slab.base = source_->open(row, count, slab.base_scratch, nullptr);
}

void StoredOperator::form(const Slab& slab, std::size_t row, std::size_t column, std::size_t count,
                          float* out, TileSums* sums) const {
  const std::size_t first = row * cols() + column;
  const auto dtype = source_->dtype();
  kernels().widen[static_cast<std::size_t>(dtype)](slab.base + first * size_of(dtype), out, count);
  if (sums != nullptr) sums->delta += kernels().sum_squares(out, count);
}

void DenseOperator::open_slab(std::size_t row, std::size_t, Slab& slab, TileSums*) const {
  slab.base = reinterpret_cast<const std::byte*>(matrix_.row(row));
}

void DenseOperator::form(const Slab& slab, std::size_t row, std::size_t column, std::size_t count,
                         float* out, TileSums* sums) const {
  const float* first = reinterpret_cast<const float*>(slab.base) + row * matrix_.ld + column;
  std::copy_n(first, count, out);
  if (sums != nullptr) sums->delta += kernels().sum_squares(out, count);
}

}  // namespace loragraft
