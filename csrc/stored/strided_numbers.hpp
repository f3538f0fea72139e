#pragma once

#include <cstddef>
#include <memory>

#include "base/encoding.hpp"
#include "base/parallel.hpp"
#include "base/views.hpp"
#include "io/mapped_file.hpp"

namespace loragraft {

// Bytes of a file.
struct FileRange {
  const MappedFile* file;
  std::size_t offset;
  std::size_t length;
};

// How a matrix lies in a row of numbers: (i, j) is number i * row_stride + j * col_stride.
struct Geometry {
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t row_stride = 0;
  std::size_t col_stride = 1;

  bool operator==(const Geometry&) const = default;
  [[nodiscard]] Geometry transposed() const { return {cols, rows, col_stride, row_stride}; }
};

// A matrix of numbers of whole bytes in one file, row by row, column by column, or with others in
// between. The bounds are checked once, here: beyond the file's end is Errc::format.
class StridedNumbers {
 public:
  StridedNumbers(std::shared_ptr<const MappedFile> file, std::size_t offset, Encoding encoding,
                 const Geometry& geometry);

  [[nodiscard]] std::size_t rows() const { return geometry_.rows; }
  [[nodiscard]] std::size_t cols() const { return geometry_.cols; }
  [[nodiscard]] Encoding encoding() const { return encoding_; }
  [[nodiscard]] const MappedFile& file() const { return *file_; }

  // Columns lie together and rows do not: few rows cost nearly as much as many.
  [[nodiscard]] bool by_columns() const;

  // Rows [first, first + count) where they lie, or null where these are not next to one another in
  // a mapped file.
  [[nodiscard]] const std::byte* in_place(std::size_t first, std::size_t count) const;

  // The rows into `out`, `ld` bytes from one to the next.
  void gather(std::size_t first, std::size_t count, std::byte* out, std::size_t ld) const;

  // The rows one behind the other, in place or in `scratch`.
  const std::byte* open(std::size_t first, std::size_t count,
                        AlignedBuffer<std::byte>& scratch) const;

  // Whether the other matrix has the same shape, encoding and bytes.
  [[nodiscard]] bool same(const StridedNumbers& other, const CancelToken& cancel) const;

  // From the first number to the last.
  [[nodiscard]] FileRange range() const { return {file_.get(), offset_, length_}; }

 private:
  [[nodiscard]] StridedNumbers transposed() const;
  [[nodiscard]] bool contiguous() const;
  [[nodiscard]] std::size_t offset_at(std::size_t row, std::size_t col) const;
  void fetch(std::size_t offset, std::size_t length, std::byte* out) const;
  template <class T>
  void pick(std::size_t first, std::size_t count, std::byte* out, std::size_t ld) const;

  std::shared_ptr<const MappedFile> file_;
  std::size_t offset_;
  std::size_t length_;
  Encoding encoding_;
  Geometry geometry_;
};

}  // namespace loragraft
