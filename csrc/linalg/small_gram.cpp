#include "linalg/small_gram.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "linalg/blas.hpp"
#include "linalg/byte_operand.hpp"
#include "simd/isa.hpp"
#include "simd/transpose.hpp"

namespace loragraft {
namespace {

// Rows of X multiplied together: sums of so many products of bytes are far from overflow, and what
// a block adds to a tile of the result costs little beside computing it.
constexpr std::size_t kDepth = 1024;
// Columns of a tile: 96 x 1024 bytes of both sides stay in the L2 cache, and the register tiles of
// 12 x 32 divide it.
constexpr std::size_t kPanel = 96;
// Columns of a tile of floats.
constexpr std::size_t kFloatPanel = 384;
// Rows of A turned together: one cache line of floats.
constexpr std::size_t kTurned = kTileBytes / sizeof(float);
// Rows formed by one task.
constexpr std::size_t kFormed = 64;

class Gram {
 public:
  Gram(const LinearOperator& a, GramProducts products, const Run& run)
      : a_(a),
        products_(products),
        run_(run),
        tall_(a.rows() >= a.cols()),
        width_(tall_ ? a.cols() : a.rows()),
        padded_(round_up(width_, kWidthUnit)),
        // Rows of a power of two of floats would share their cache sets.
        block_(kDepth, padded_ + kWidthUnit),
        squares_(padded_, 0.0) {
    out_.values = Matrix<float>(width_, padded_);
    out_.values.fill(0.0F);
    block_.fill(0.0F);
    if (products_ == GramProducts::bytes) make_panels();
  }

  SmallGram compute() {
    const std::size_t depth = tall_ ? a_.rows() : a_.cols();
    for (std::size_t first = 0; first < depth; first += kDepth) {
      run_.cancel.check();
      const std::size_t count = std::min(kDepth, depth - first);
      load(first, count);
      add_squares(count);
      if (products_ == GramProducts::bytes) {
        multiply_bytes(count);
      } else {
        multiply_floats(count);
      }
    }
    return finished();
  }

 private:
  // A panel of the block in bytes, and the same as unsigned ones.
  struct Panel {
    std::size_t first;
    std::size_t width;
    ByteOperand bytes;
    AlignedBuffer<std::uint8_t> unsigned_bytes;
    double error_square = 0.0;
  };

  void make_panels() {
    for (std::size_t j = 0; j < padded_; j += kPanel) {
      const std::size_t width = std::min(kPanel, padded_ - j);
      panels_.push_back({j, width, ByteOperand(kDepth, kDepth, width),
                         AlignedBuffer<std::uint8_t>(kDepth * width)});
    }
  }

  // Rows first ... first + count of X.
  void load(std::size_t first, std::size_t count) {
    const std::size_t rows = tall_ ? count : width_;
    std::vector<TileSums> parts(ceil_div(rows, kFormed));
    run_.pool.parallel_for(parts.size(), [&](std::size_t part) {
      const std::size_t begin = part * kFormed;
      const std::size_t some = std::min(kFormed, rows - begin);
      if (tall_) {
        a_.form_part({first + begin, some, 0, width_}, block_.row(begin), block_.cols(),
                     &parts[part]);
      } else {
        load_turned(begin, some, first, count, parts[part]);
      }
    });
    for (const TileSums& part : parts) add_sums(out_.sums, part);
  }

  // Entries (row ... row + rows, first ... first + count) of A become columns of the block.
  void load_turned(std::size_t row, std::size_t rows, std::size_t first, std::size_t count,
                   TileSums& sums) {
    const std::size_t ld = kDepth + kTurned;
    const Matrix<float> lines(kTurned, ld);
    lines.fill(0.0F);
    for (std::size_t done = 0; done < rows; done += kTurned) {
      const std::size_t some = std::min(kTurned, rows - done);
      a_.form_part({row + done, some, first, count}, lines.data(), ld, &sums);
      if (some < kTurned) std::fill(lines.row(some), lines.data() + lines.size(), 0.0F);
      for (std::size_t j = 0; j < count; j += kTurned) {
        std::array<const std::byte*, kTurned> places{};
        for (std::size_t i = 0; i < kTurned; ++i) {
          places[i] = reinterpret_cast<const std::byte*>(lines.row(i) + j);
        }
        transpose_tile(sizeof(float), places.data(),
                       reinterpret_cast<std::byte*>(block_.row(j) + row + done),
                       block_.cols() * sizeof(float));
      }
    }
  }

  void add_squares(std::size_t count) {
    std::vector<float> peaks(padded_);
    std::vector<float> squares(padded_);
    kernels().bytes == nullptr
        ? plain_squares(count, squares)
        : kernels().bytes->measure_columns(block_.data(), block_.cols(), count, padded_,
                                           peaks.data(), squares.data());
    std::transform(squares.begin(), squares.end(), squares_.begin(), squares_.begin(),
                   [](float square, double sum) { return sum + static_cast<double>(square); });
  }

  void plain_squares(std::size_t count, std::vector<float>& squares) const {
    for (std::size_t i = 0; i < count; ++i) {
      const float* const row = block_.row(i);
      std::transform(row, row + padded_, squares.begin(), squares.begin(),
                     [](float x, float sum) { return sum + x * x; });
    }
  }

  void multiply_floats(std::size_t count) {
    run_.pool.parallel_for(ceil_div(width_, kFloatPanel), [&](std::size_t part) {
      run_.cancel.check();
      const std::size_t i = part * kFloatPanel;
      const std::size_t rows = std::min(kFloatPanel, width_ - i);
      const std::size_t cols = width_ - i;
      gemm(Transpose::yes, Transpose::no, 1.0F, {block_.data() + i, count, rows, block_.cols()},
           {block_.data() + i, count, cols, block_.cols()}, 1.0F,
           {out_.values.row(i) + i, rows, cols, padded_});
    });
  }

  void multiply_bytes(std::size_t count) {
    run_.pool.parallel_for(panels_.size(), [&](std::size_t p) { pack(panels_[p], count); });
    run_.pool.parallel_for(panels_.size(), [&](std::size_t p) {
      run_.cancel.check();
      for (std::size_t q = p; q < panels_.size(); ++q) multiply(panels_[p], panels_[q], count);
    });
  }

  void pack(Panel& panel, std::size_t count) const {
    panel.bytes.pack({block_.data() + panel.first, count, panel.width, block_.cols()});
    const ByteOperand::Plane plane = panel.bytes.high(0);
    const std::size_t bytes = round_up(count, kByteStep) * panel.width;
    std::transform(plane.bytes, plane.bytes + bytes, panel.unsigned_bytes.data(),
                   [](std::int8_t x) { return static_cast<std::uint8_t>(x ^ 0x80); });
    // A byte is wrong by half a unit at the most, evenly.
    for (std::size_t j = 0; j < panel.width; ++j) {
      const auto unit = static_cast<double>(plane.scale[j]);
      panel.error_square += static_cast<double>(count) * unit * unit / 12.0;
    }
  }

  void multiply(const Panel& left, const Panel& right, std::size_t count) {
    const ByteOperand::Plane own = left.bytes.high(0);
    const ByteOperand::Plane other = right.bytes.high(0);
    kernels().bytes->multiply({.a = left.unsigned_bytes.data(),
                               .row_stride = kByteStep,
                               .step_stride = kByteStep * left.width,
                               .rows = std::min(left.width, width_ - left.first),
                               .steps = ceil_div(count, kByteStep),
                               .b = other.bytes,
                               .b_sums = other.sums,
                               .row_scale = own.scale,
                               .column_scale = other.scale,
                               .c = out_.values.row(left.first) + right.first,
                               .ldc = padded_,
                               .width = right.width});
  }

  SmallGram finished() {
    for (std::size_t i = 0; i < width_; ++i) {
      out_.values.row(i)[i] = static_cast<float>(squares_[i]);
    }
    // By tiles: a column of the whole is a cache miss for every entry.
    constexpr std::size_t kTile = 64;
    for (std::size_t i = 0; i < width_; i += kTile) {
      for (std::size_t j = 0; j <= i; j += kTile) {
        for (std::size_t r = i; r < std::min(width_, i + kTile); ++r) {
          for (std::size_t c = j; c < std::min(r, j + kTile); ++c) {
            out_.values.row(r)[c] = out_.values.row(c)[r];
          }
        }
      }
    }
    for (const Panel& panel : panels_) out_.error_square += panel.error_square;
    return std::move(out_);
  }

  const LinearOperator& a_;
  GramProducts products_;
  const Run& run_;
  bool tall_;
  std::size_t width_;
  std::size_t padded_;
  Matrix<float> block_;
  std::vector<double> squares_;
  std::vector<Panel> panels_;
  SmallGram out_;
};

}  // namespace

SmallGram small_gram(const LinearOperator& a, GramProducts products, const Run& run) {
  return Gram(a, products, run).compute();
}

}  // namespace loragraft
