#include "linalg/best_products.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "linalg/blas.hpp"
#include "linalg/byte_operand.hpp"
#include "simd/isa.hpp"

namespace loragraft {
namespace {

// Rows of b multiplied together, and of a: a panel of bytes and the products stay in the L2 cache.
constexpr std::size_t kPanel = 96;
constexpr std::size_t kRows = 252;
// Below so many multiplications packing costs more than bytes gain.
constexpr std::size_t kByteProducts = std::size_t{1} << 24;

// The rows of a matrix in bytes, each in units of its own.
class ByteRows {
 public:
  explicit ByteRows(MatrixView<const float> a)
      : ld(round_up(a.cols, kByteUnit)), high(a.rows * ld), scales(a.rows) {
    std::vector<float> padded(ld, 0.0F);
    std::vector<std::uint8_t> low(ld);
    for (std::size_t i = 0; i < a.rows; ++i) {
      std::copy_n(a.row(i), a.cols, padded.data());
      const float unit = kernels().bytes->peak(a.row(i), a.cols) / kByteUnits;
      const float factor = unit > std::numeric_limits<float>::min() ? 1.0F / unit : 0.0F;
      kernels().bytes->split(padded.data(), ld, factor, high.data() + i * ld, low.data());
      scales[i] = 256.0F * unit;
    }
  }

  std::size_t ld;
  AlignedBuffer<std::uint8_t> high;
  std::vector<float> scales;
};

// Multiplies some rows of a with some rows of b.
class Products {
 public:
  Products(MatrixView<const float> a, MatrixView<const float> b, const Run& run) : a_(a), b_(b) {
    if (kernels().bytes == nullptr || a.rows * b.rows * a.cols < kByteProducts) return;
    rows_.emplace_back(a);
    const std::size_t depth = rows_.front().ld;
    for (std::size_t p = 0; p < ceil_div(b.rows, kPanel); ++p) {
      panels_.emplace_back(depth, depth, kPanel);
    }
    run.pool.parallel_for(panels_.size(), [&](std::size_t p) {
      const Matrix<float> turned(depth, kPanel);
      turned.fill(0.0F);
      for (std::size_t j = 0; j < std::min(kPanel, b.rows - p * kPanel); ++j) {
        const float* const row = b.row(p * kPanel + j);
        for (std::size_t i = 0; i < b.cols; ++i) turned.row(i)[j] = row[i];
      }
      panels_[p].pack(turned.view());
    });
  }

  // c (count, kPanel) = rows [first, first + count) of a times those of a panel.
  void multiply(std::size_t first, std::size_t count, std::size_t panel,
                const Matrix<float>& c) const {
    if (panels_.empty()) {
      const std::size_t row = panel * kPanel;
      const std::size_t width = std::min(kPanel, b_.rows - row);
      gemm(Transpose::no, Transpose::yes, 1.0F, {a_.row(first), count, a_.cols, a_.ld},
           {b_.row(row), width, b_.cols, b_.ld}, 0.0F, {c.data(), count, width, kPanel});
      return;
    }
    c.fill(0.0F);
    const ByteRows& rows = rows_.front();
    const ByteOperand::Plane plane = panels_[panel].high(0);
    kernels().bytes->multiply({.a = rows.high.data() + first * rows.ld,
                               .row_stride = rows.ld,
                               .step_stride = kByteStep,
                               .rows = count,
                               .steps = rows.ld / kByteStep,
                               .b = plane.bytes,
                               .b_sums = plane.sums,
                               .row_scale = rows.scales.data() + first,
                               .column_scale = plane.scale,
                               .c = c.data(),
                               .ldc = kPanel,
                               .width = kPanel});
  }

 private:
  MatrixView<const float> a_;
  MatrixView<const float> b_;
  std::vector<ByteRows> rows_;  // one, or none where floats are multiplied
  std::vector<ByteOperand> panels_;
};

// Take a value into a decreasing row whose last one it exceeds.
void insert(float value, std::int64_t place, std::size_t count, float* values,
            std::int64_t* places) {
  std::size_t at = count - 1;
  for (; at > 0 && values[at - 1] < value; --at) {
    values[at] = values[at - 1];
    places[at] = places[at - 1];
  }
  values[at] = value;
  places[at] = place;
}

}  // namespace

BestProducts best_products(MatrixView<const float> a, MatrixView<const float> b, std::size_t count,
                           const Run& run) {
  if (a.cols != b.cols || count == 0 || count > b.rows) {
    throw Error(Errc::invalid_argument, "best products: shapes of the operands do not fit");
  }
  BestProducts out{Matrix<float>(a.rows, count), Matrix<std::int64_t>(a.rows, count)};
  out.values.fill(-std::numeric_limits<float>::infinity());
  out.places.fill(0);
  const Products products(a, b, run);
  run.pool.parallel_for(ceil_div(a.rows, kRows), [&](std::size_t part) {
    const std::size_t first = part * kRows;
    const std::size_t rows = std::min(kRows, a.rows - first);
    const Matrix<float> tile(rows, kPanel);
    for (std::size_t panel = 0; panel * kPanel < b.rows; ++panel) {
      run.cancel.check();
      products.multiply(first, rows, panel, tile);
      const std::size_t width = std::min(kPanel, b.rows - panel * kPanel);
      for (std::size_t i = 0; i < rows; ++i) {
        float* const values = out.values.row(first + i);
        for (std::size_t j = 0; j < width; ++j) {
          if (tile.row(i)[j] <= values[count - 1]) continue;
          insert(tile.row(i)[j], static_cast<std::int64_t>(panel * kPanel + j), count, values,
                 out.places.row(first + i));
        }
      }
    }
  });
  return out;
}

}  // namespace loragraft
