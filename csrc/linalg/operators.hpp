#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "base/dtype.hpp"
#include "base/parallel.hpp"
#include "base/views.hpp"
#include "base/workspaces.hpp"
#include "simd/kernels.hpp"
#include "stored/stored_matrix.hpp"

namespace loragraft {

// What a computation runs on: threads, a way to stop it, and memory to borrow.
struct Run {
  ThreadPool& pool;
  const CancelToken& cancel;
  Workspaces* workspaces = nullptr;
};

// A matrix known by its products with skinny ones. Implementations form it tile by tile; the
// whole is never stored. Sums run in an order fixed by the shape, whatever the threads.
class LinearOperator {
 public:
  virtual ~LinearOperator() = default;
  [[nodiscard]] std::size_t rows() const { return rows_; }
  [[nodiscard]] std::size_t cols() const { return cols_; }

  // y (m, l) = A x, x (n, l); l a multiple of kWidthUnit. With `sums`, the same pass measures the
  // entries as they are stored, before `scale`.
  void times(MatrixView<const float> x, MatrixView<float> y, const Run& run,
             TileSums* sums = nullptr) const;

  // Whether `times_and_back` is faster than two passes, l = width.
  [[nodiscard]] bool back_pays(std::size_t width) const;

  // y = A x and z (n, l) = A^T y in one pass: every slab is formed once and used twice. `sums` as
  // in `times`.
  void times_and_back(MatrixView<const float> x, MatrixView<float> y, MatrixView<float> z,
                      const Run& run, TileSums* sums = nullptr) const;

  // z (n, l) = A^T q, q (m, l); l a multiple of kWidthUnit.
  void transpose_times(MatrixView<const float> q, MatrixView<float> z, const Run& run) const;

  // ||A - left right||_F^2, summed directly in double precision; left (m, r), right (r, n).
  [[nodiscard]] double residual(MatrixView<const float> left, MatrixView<const float> right,
                                const Run& run) const;

  // Sums over all entries, without a product.
  [[nodiscard]] TileSums measure(const Run& run) const;

  // Every entry, in double precision, into out (m, n).
  void materialize(MatrixView<double> out, const Run& run) const;

  // Form rows [first, first + count) one after the other, whole, and show each to `visit`; the row
  // is followed by room for a cache line. `sums` as in `times`.
  void visit_rows(std::size_t first, std::size_t count, TileSums* sums,
                  const std::function<void(std::size_t row, float* entries)>& visit) const;

  // Part of a matrix.
  struct Part {
    std::size_t row;
    std::size_t rows;
    std::size_t column;
    std::size_t cols;
  };
  // The entries of a part into out, whose rows are `ld` apart. `sums` as in `times`.
  void form_part(const Part& part, float* out, std::size_t ld, TileSums* sums) const;

  // A power of two that every formed entry is multiplied by; keeps products of extreme matrices
  // within the range of float.
  void set_scale(float scale) { scale_ = scale; }

 protected:
  LinearOperator(std::size_t rows, std::size_t cols) : rows_(rows), cols_(cols) {}

  // Both sides of a slab of rows, valid until the slab is dropped or opened again.
  struct Slab {
    const std::byte* base = nullptr;
    const std::byte* tuned = nullptr;
    AlignedBuffer<std::byte> base_scratch;
    AlignedBuffer<std::byte> tuned_scratch;
  };
  // What only the stored numbers tell is added to `sums`.
  virtual void open_slab(std::size_t row, std::size_t count, Slab& slab, TileSums* sums) const = 0;

  // How many rows to open together where nothing else decides.
  [[nodiscard]] virtual std::size_t rows_at_once() const = 0;

  // Entries (row, column ... column + count) of the slab into out, `row` counted from its start.
  virtual void form(const Slab& slab, std::size_t row, std::size_t column, std::size_t count,
                    float* out, TileSums* sums) const = 0;

 private:
  struct Tile;
  template <class F>
  void for_each_tile(std::size_t first, std::size_t last, TileSums* sums, const Run& run,
                     F visit) const;
  template <class F>
  void for_all_tiles(std::vector<TileSums>* sums, const Run& run, F visit) const;
  void form_rows(const Slab& slab, std::size_t first, const Tile& tile, TileSums* sums) const;
  template <class F>
  void sum_over_groups(MatrixView<float> z, const Run& run, F add) const;

  std::size_t rows_;
  std::size_t cols_;
  float scale_ = 1.0F;
};

// dW = W_tuned - W_base over two stored matrices of one shape, subtracted in fp32.
class DeltaOperator final : public LinearOperator {
 public:
  using Side = std::shared_ptr<const StoredMatrix>;
  DeltaOperator(Side base, Side tuned);

  // Both sides hold the same bytes, of the same meaning.
  [[nodiscard]] bool identical(const Run& run) const;

 protected:
  void open_slab(std::size_t row, std::size_t count, Slab& slab, TileSums* sums) const override;
  [[nodiscard]] std::size_t rows_at_once() const override;
  void form(const Slab& slab, std::size_t row, std::size_t column, std::size_t count, float* out,
            TileSums* sums) const override;

 private:
  Side base_;
  Side tuned_;
};

// One stored matrix.
class StoredOperator final : public LinearOperator {
 public:
  using Source = std::shared_ptr<const StoredMatrix>;
  explicit StoredOperator(Source source);

 protected:
  void open_slab(std::size_t row, std::size_t count, Slab& slab, TileSums* sums) const override;
  [[nodiscard]] std::size_t rows_at_once() const override { return source_->rows_at_once(); }
  void form(const Slab& slab, std::size_t row, std::size_t column, std::size_t count, float* out,
            TileSums* sums) const override;

 private:
  Source source_;
};

// A dense matrix in memory.
class DenseOperator final : public LinearOperator {
 public:
  explicit DenseOperator(MatrixView<const float> matrix)
      : LinearOperator(matrix.rows, matrix.cols), matrix_(matrix) {}

 protected:
  void open_slab(std::size_t row, std::size_t count, Slab& slab, TileSums* sums) const override;
  [[nodiscard]] std::size_t rows_at_once() const override { return rows(); }
  void form(const Slab& slab, std::size_t row, std::size_t column, std::size_t count, float* out,
            TileSums* sums) const override;

 private:
  MatrixView<const float> matrix_;
};

}  // namespace loragraft
