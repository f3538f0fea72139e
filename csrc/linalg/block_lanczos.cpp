#include "linalg/block_lanczos.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/philox.hpp"
#include "linalg/blas.hpp"
#include "linalg/qr.hpp"
#include "simd/isa.hpp"

namespace loragraft {
namespace {

// Columns multiplied together: the kernels' register tile. Fewer reach further in as many products,
// but at a lower rate.
constexpr std::size_t kBlock = 32;
// Rows of a product made by one task.
constexpr std::size_t kRows = 192;
// Dimensions after which an end is made: so many times k, but at least so many.
constexpr std::size_t kMostTimes = 10;
constexpr std::size_t kMost = 32 * kBlock;
// Dimensions beyond k before which residuals are not looked at: they say nothing of a direction
// that is still missing altogether.
constexpr std::size_t kLeast = 6 * kBlock;
// A block that is this small beside the matrix is rounding.
constexpr double kVanished = 64.0 * static_cast<double>(std::numeric_limits<float>::epsilon());

using Small = Matrix<float>;  // (kBlock, width)

// c (kBlock, kBlock) = a^T b, both (d, kBlock).
Small cross(const Matrix<float>& a, const Matrix<float>& b) {
  Small c(kBlock, kBlock);
  c.fill(0.0F);
  kernels().skinny(a.data(), 1, kBlock, kBlock, a.rows(), b.data(), kBlock, c.data(), kBlock,
                   kBlock);
  return c;
}

// y += a c, y (d, c's width).
void add_product(const Matrix<float>& a, const Small& c, MatrixView<float> y) {
  kernels().skinny(a.data(), kBlock, 1, a.rows(), kBlock, c.data(), c.cols(), y.data, y.ld,
                   c.cols());
}

class Lanczos {
 public:
  Lanczos(MatrixView<const float> g, std::size_t k, std::size_t most, const Run& run)
      : g_(g), k_(k), run_(run), projected_(most, most) {
    projected_.fill(0.0);
  }

  void start(std::uint64_t key) {
    Matrix<float> first(g_.rows, kBlock);
    Philox{key}.fill_uniform(first.data(), first.size());
    orthonormalize(first.view());
    blocks_.push_back(std::move(first));
  }

  // One more block; false where it would be rounding.
  bool step() {
    Matrix<float> next = product(blocks_.back());
    const std::size_t n = dimensions();
    const std::size_t last = n - kBlock;
    const Small own = take(blocks_.back(), next);
    for (std::size_t i = 0; i < kBlock; ++i) {
      for (std::size_t j = 0; j < kBlock; ++j) {
        projected_.row(last + i)[last + j] =
            0.5 * (static_cast<double>(own.row(i)[j]) + static_cast<double>(own.row(j)[i]));
      }
    }
    if (blocks_.size() > 1) take(blocks_[blocks_.size() - 2], next);
    // What rounding left of all blocks grows where eigenvectors have been found.
    for (const Matrix<float>& block : blocks_) take(block, next);
    coupling_ = orthonormalize(next.view());
    for (std::size_t i = 0; i < kBlock; ++i) {
      if (std::abs(coupling_.row(i)[i]) <= kVanished * projected_.row(0)[0]) return false;
    }
    blocks_.push_back(std::move(next));
    if (n + kBlock > projected_.rows()) return true;
    for (std::size_t i = 0; i < kBlock; ++i) {
      for (std::size_t j = 0; j < kBlock; ++j) {
        projected_.row(n + i)[last + j] = projected_.row(last + j)[n + i] = coupling_.row(i)[j];
      }
    }
    return true;
  }

  // Dimensions of the space that has been multiplied by g, but for the last block.
  [[nodiscard]] std::size_t dimensions() const { return blocks_.size() * kBlock; }

  // Ritz vectors of the blocks before the last one.
  [[nodiscard]] LeadingEigen result() const {
    const std::size_t n = dimensions() - kBlock;
    const Matrix<double> square(n, n);
    for (std::size_t i = 0; i < n; ++i) std::copy_n(projected_.row(i), n, square.row(i));
    LeadingEigen out;
    out.values.resize(n);
    const Matrix<double> rotation(n, n);
    eigen(square.view(), out.values.data(), rotation.view());
    out.loss = loss(out.values, rotation);
    if (out.loss <= kSubspaceLoss) out.vectors = rotated(rotation);
    return out;
  }

 private:
  // next -= block (block^T next); returns the coefficients.
  static Small take(const Matrix<float>& block, const Matrix<float>& next) {
    Small share = cross(block, next);
    const Small negated(kBlock, kBlock);
    std::transform(share.data(), share.data() + share.size(), negated.data(),
                   [](float x) { return -x; });
    add_product(block, negated, next.view());
    return share;
  }

  [[nodiscard]] Matrix<float> product(const Matrix<float>& x) const {
    Matrix<float> y(g_.rows, kBlock);
    y.fill(0.0F);
    run_.pool.parallel_for(ceil_div(g_.rows, kRows), [&](std::size_t part) {
      run_.cancel.check();
      const std::size_t row = part * kRows;
      kernels().skinny(g_.row(row), g_.ld, 1, std::min(kRows, g_.rows - row), g_.rows, x.data(),
                       kBlock, y.row(row), kBlock, kBlock);
    });
    return y;
  }

  [[nodiscard]] double loss(const std::vector<double>& values,
                            const Matrix<double>& rotation) const {
    const std::size_t n = values.size();
    const double next = values[std::min(n - 1, k_ + std::max<std::size_t>(1, k_ / 8))];
    double sum = 0.0;
    for (std::size_t j = 0; j < k_; ++j) {
      double square = 0.0;
      for (std::size_t i = 0; i < kBlock; ++i) {
        double entry = 0.0;
        for (std::size_t c = 0; c < kBlock; ++c) {
          entry += coupling_.row(i)[c] * rotation.row(n - kBlock + c)[j];
        }
        square += entry * entry;
      }
      const double gap = values[j] - next;
      sum += gap > 0.0 ? std::min(0.5, square / (gap * gap)) : 0.5;
    }
    return sum / static_cast<double>(k_);
  }

  [[nodiscard]] Matrix<float> rotated(const Matrix<double>& rotation) const {
    const std::size_t width = round_up(k_, kWidthUnit);
    const Matrix<float> wide(g_.rows, width);
    wide.fill(0.0F);
    const Small part(kBlock, width);
    part.fill(0.0F);
    for (std::size_t b = 0; b + 1 < blocks_.size(); ++b) {
      for (std::size_t i = 0; i < kBlock; ++i) {
        const double* const row = rotation.row(b * kBlock + i);
        std::transform(row, row + k_, part.row(i), [](double x) { return static_cast<float>(x); });
      }
      add_product(blocks_[b], part, wide.view());
    }
    Matrix<float> out(g_.rows, k_);
    for (std::size_t i = 0; i < g_.rows; ++i) std::copy_n(wide.row(i), k_, out.row(i));
    return out;
  }

  MatrixView<const float> g_;
  std::size_t k_;
  const Run& run_;
  std::vector<Matrix<float>> blocks_;
  Matrix<double> projected_;  // g between the blocks
  Matrix<double> coupling_;   // between the last block and the one before
};

}  // namespace

LeadingEigen all_eigen(MatrixView<const float> g, std::size_t k) {
  const std::size_t d = g.rows;
  const Matrix<double> wide(d, d);
  for (std::size_t i = 0; i < d; ++i) std::copy_n(g.row(i), d, wide.row(i));
  const Matrix<double> vectors(d, d);
  LeadingEigen out{Matrix<float>(d, k), std::vector<double>(d)};
  eigen(wide.view(), out.values.data(), vectors.view());
  for (std::size_t i = 0; i < d; ++i) {
    std::transform(vectors.row(i), vectors.row(i) + k, out.vectors.row(i),
                   [](double x) { return static_cast<float>(x); });
  }
  return out;
}

std::optional<LeadingEigen> block_lanczos(MatrixView<const float> g, std::size_t k,
                                          std::uint64_t key, const Run& run) {
  const std::size_t d = g.rows;
  const std::size_t most =
      std::min(d / kBlock * kBlock, std::max(kMost, round_up(kMostTimes * k, kBlock)));
  // Wider matrices have eigenvalues closer together. The small eigenproblem costs as much as
  // several blocks, so that looking at every step does not pay.
  std::size_t enough = round_up(std::max(3 * k + k * d / 1536, k + kLeast), kBlock);
  Lanczos lanczos(g, k, most, run);
  lanczos.start(key);
  while (lanczos.dimensions() <= most) {
    if (!lanczos.step()) return std::nullopt;
    const std::size_t done = lanczos.dimensions() - kBlock;
    if (done < enough && done < most) continue;
    LeadingEigen found = lanczos.result();
    if (found.loss <= kSubspaceLoss) return found;
    enough = done + round_up(std::max(k / 2, 2 * kBlock), kBlock);
  }
  return std::nullopt;
}

}  // namespace loragraft
