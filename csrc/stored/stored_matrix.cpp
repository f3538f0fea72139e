#include "stored/stored_matrix.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace loragraft {
namespace {

// Rows that have to be gathered or decoded stay in the L2 cache until they are used; a gather from
// columns wants long runs more.
constexpr std::size_t kRowBytes = std::size_t{256} << 10;
constexpr std::size_t kColumnBytes = std::size_t{4} << 20;
constexpr std::size_t kLeastOfColumns = 32;

}  // namespace

std::size_t StoredMatrix::rows_at_once() const {
  const std::size_t row = std::max<std::size_t>(1, cols_ * size_of(dtype_));
  return by_columns() ? std::max(kLeastOfColumns, kColumnBytes / row)
                      : std::max<std::size_t>(1, kRowBytes / row);
}

const std::byte* StoredMatrix::open(std::size_t first, std::size_t count,
                                    AlignedBuffer<std::byte>& scratch, double* steps) const {
  if (const std::byte* const there = in_place(first, count)) return there;
  const std::size_t row_bytes = checked_mul(cols_, size_of(dtype_));
  const std::size_t needed = checked_mul(count, row_bytes);
  if (scratch.size() < needed) scratch = AlignedBuffer<std::byte>(needed);
  read(first, count, {dtype_, scratch.data(), row_bytes, decoded_ ? steps : nullptr});
  return scratch.data();
}

bool StoredMatrix::same_bytes(const StoredMatrix& other, const CancelToken& cancel) const {
  if (decoded_ || other.decoded_ || dtype_ != other.dtype_) return false;
  const std::size_t step = std::max(rows_at_once(), other.rows_at_once());
  AlignedBuffer<std::byte> mine;
  AlignedBuffer<std::byte> theirs;
  for (std::size_t row = 0; row < rows_; row += step) {
    cancel.check();
    const std::size_t count = std::min(step, rows_ - row);
    if (std::memcmp(open(row, count, mine, nullptr), other.open(row, count, theirs, nullptr),
                    count * cols_ * size_of(dtype_)) != 0) {
      return false;
    }
  }
  return true;
}

std::size_t StoredMatrix::nbytes() const {
  const std::vector<FileRange> all = ranges();
  return std::accumulate(all.begin(), all.end(), std::size_t{0},
                         [](std::size_t sum, const FileRange& r) { return sum + r.length; });
}

void StoredMatrix::check_unchanged() const {
  const MappedFile* last = nullptr;
  for (const FileRange& range : ranges()) {
    if (range.file != last) range.file->check_unchanged();
    last = range.file;
  }
}

}  // namespace loragraft
