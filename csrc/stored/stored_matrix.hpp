#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "stored/strided_numbers.hpp"

namespace loragraft {

// A matrix as checkpoints hold it: where its entries lie, and what their bytes mean. Nothing is
// kept in memory; rows are read when they are asked for, from any thread.
class StoredMatrix {
 public:
  virtual ~StoredMatrix() = default;
  StoredMatrix(const StoredMatrix&) = delete;
  StoredMatrix& operator=(const StoredMatrix&) = delete;

  [[nodiscard]] std::size_t rows() const { return rows_; }
  [[nodiscard]] std::size_t cols() const { return cols_; }

  // What rows are opened as.
  [[nodiscard]] DType dtype() const { return dtype_; }

  // Entries are worked out, as F32, from numbers of another format, whose spacing counts.
  [[nodiscard]] bool decoded() const { return decoded_; }

  // Errc::invalid_argument for numbers that are no weights without a scale.
  virtual void require_weights() const {}

  // Columns lie together and rows do not.
  [[nodiscard]] virtual bool by_columns() const = 0;

  // How many rows should be opened together.
  [[nodiscard]] std::size_t rows_at_once() const;

  // Rows [first, first + count) one behind the other, in place or in `scratch`. Where entries are
  // decoded, `steps`, unless null, grows by the sum over them of the square of the spacing of
  // stored numbers.
  const std::byte* open(std::size_t first, std::size_t count, AlignedBuffer<std::byte>& scratch,
                        double* steps) const;

  struct Target {
    DType dtype;  // the matrix's own, or F32
    std::byte* data;
    std::size_t ld;  // bytes from one row to the next
    double* steps;   // as in `open`, decoded or not; needs F32
  };
  virtual void read(std::size_t first, std::size_t count, const Target& out) const = 0;

  // The rows where they lie as numbers of `dtype`, or null.
  [[nodiscard]] virtual const std::byte* in_place(std::size_t first, std::size_t count) const = 0;

  // True when the entries are surely the same because the stored bytes are; false proves nothing.
  [[nodiscard]] virtual bool same_bytes(const StoredMatrix& other, const CancelToken& cancel) const;

  // Everything that is read.
  [[nodiscard]] virtual std::vector<FileRange> ranges() const = 0;
  [[nodiscard]] std::size_t nbytes() const;

  // Errc::format when a file has changed, or could not be read: to be asked before what was
  // computed is used.
  void check_unchanged() const;

  // The file to blame for an entry.
  [[nodiscard]] virtual const std::string& path_at(std::size_t row, std::size_t col) const = 0;

 protected:
  StoredMatrix(std::size_t rows, std::size_t cols, DType dtype, bool decoded)
      : rows_(rows), cols_(cols), dtype_(dtype), decoded_(decoded) {}

 private:
  std::size_t rows_;
  std::size_t cols_;
  DType dtype_;
  bool decoded_;
};

}  // namespace loragraft
