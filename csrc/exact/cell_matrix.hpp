#pragma once

#include <memory>

#include "base/cells.hpp"
#include "linalg/operators.hpp"

namespace loragraft {

// How the cells of the tuned weights are seen.
struct CellOptions {
  Encoding encoding = Encoding::bf16;  // that the tuned weights were rounded to
  // The residual is that from cells this much narrower or wider.
  double stretch = 1.0;
  // Share of |dW| by which all cells are wider: 2^-8 where dW was rounded to BF16 before it was
  // added.
  double slack = 0.0;
};

// Two stored matrices as one rounding cell for each entry of what was added to the base. Entries
// are formed tile by tile, and sums run in an order fixed by the shape, whatever the threads.
class CellMatrix {
 public:
  using Side = std::shared_ptr<const StoredMatrix>;

  // Throws Errc::invalid_argument when shapes differ, or when the tuned side is not opened as
  // `encoding`, or as F32 for a format of 8 bits.
  CellMatrix(Side base, Side tuned, const CellOptions& options);

  [[nodiscard]] std::size_t rows() const { return base_->rows(); }
  [[nodiscard]] std::size_t cols() const { return base_->cols(); }

  // L = left right^T, the first `rank` columns of left (m, w) and right (n, w), w a multiple of
  // kWidthUnit, the other columns zero.
  struct Factored {
    MatrixView<const float> left;
    MatrixView<const float> right;
    std::size_t rank = 0;
  };
  struct Gradient {
    MatrixView<float> left;   // (m, w)
    MatrixView<float> right;  // (n, w)
  };

  // Half the sum of squares of R = L - (the nearest matrix inside the cells) has the gradient R
  // right, R^T left. Throws Errc::non_finite where NaN or Inf took part.
  HingeSums evaluate(const Factored& factors, const Gradient& gradient, const Run& run) const;

  // How many entries of base + L, added in single precision, round to the tuned weight, bit for
  // bit.
  [[nodiscard]] std::size_t count_exact(const Factored& factors, const Run& run) const;

 private:
  struct Tile;
  template <class F>
  void for_each_tile(std::size_t first, std::size_t last, const Factored& factors,
                     const Matrix<float>& right_rows, const Run& run, F visit) const;
  HingeSums clip(const Tile& tile) const;
  [[nodiscard]] std::size_t exact_in_row(const Tile& tile, std::size_t i) const;

  Side base_;
  Side tuned_;
  Encoding encoding_;
  CellFormat format_;
  CellRule rule_;
};

}  // namespace loragraft
