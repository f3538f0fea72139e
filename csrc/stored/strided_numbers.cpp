#include "stored/strided_numbers.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

#include "simd/transpose.hpp"

namespace loragraft {
namespace {

// Bytes of a run that are there at a time.
constexpr std::size_t kRunBytes = std::size_t{64} << 10;
// Bytes that are compared at a time.
constexpr std::size_t kCompared = std::size_t{256} << 10;

// Numbers from the first to the last, those in between that belong to others included.
std::size_t extent(const Geometry& geometry) {
  if (geometry.rows == 0 || geometry.cols == 0) return 0;
  const std::size_t down = checked_mul(geometry.rows - 1, geometry.row_stride);
  const std::size_t across = checked_mul(geometry.cols - 1, geometry.col_stride);
  return checked_add(checked_add(down, across), 1);
}

// A side with one entry at most has any stride, also 0, which nobody can divide by.
Geometry normal(Geometry geometry) {
  if (geometry.cols <= 1) geometry.col_stride = 1;
  if (geometry.rows <= 1) geometry.row_stride = geometry.cols;
  return geometry;
}

// Some runs of numbers, as many as fill a cache line or fewer.
struct Runs {
  const std::byte* const* starts;
  std::size_t count;
  std::size_t length;  // in numbers
  std::size_t step;    // bytes from one to the next
};

// Every run becomes a row of `out`.
template <class T>
void put_across(const Runs& runs, std::byte* out, std::size_t ld) {
  for (std::size_t i = 0; i < runs.count; ++i) {
    for (std::size_t n = 0; n < runs.length; ++n) {
      std::memcpy(out + i * ld + n * sizeof(T), runs.starts[i] + n * runs.step, sizeof(T));
    }
  }
}

// Every run becomes a column of `out`.
template <class T>
void put_down(const Runs& runs, std::byte* out, std::size_t ld) {
  constexpr std::size_t kSide = kTileBytes / sizeof(T);
  std::size_t done = 0;
  if (runs.step == sizeof(T) && runs.count == kSide) {
    std::array<const std::byte*, kSide> at{};
    for (; done + kSide <= runs.length; done += kSide) {
      for (std::size_t i = 0; i < kSide; ++i) at[i] = runs.starts[i] + done * sizeof(T);
      transpose_tile(sizeof(T), at.data(), out + done * ld, ld);
    }
  }
  for (std::size_t n = done; n < runs.length; ++n) {
    for (std::size_t i = 0; i < runs.count; ++i) {
      std::memcpy(out + n * ld + i * sizeof(T), runs.starts[i] + n * runs.step, sizeof(T));
    }
  }
}

}  // namespace

StridedNumbers::StridedNumbers(std::shared_ptr<const MappedFile> file, std::size_t offset,
                               Encoding encoding, const Geometry& geometry)
    : file_(std::move(file)),
      offset_(offset),
      length_(checked_mul(extent(geometry), bytes_of(encoding, 1))),
      encoding_(encoding),
      geometry_(normal(geometry)) {
  if ((rows() > 1 && geometry.row_stride == 0) || (cols() > 1 && geometry.col_stride == 0)) {
    throw Error(Errc::invalid_argument, "a stride of 0: entries of a matrix lie apart");
  }
  // Entries are counted in 64 bits everywhere, and worked with as floats.
  static_cast<void>(checked_mul(checked_mul(rows(), cols()), sizeof(float)));
  if (checked_add(offset, length_) > file_->size()) {
    throw Error(Errc::format, file_->path() + ": a tensor reaches beyond the file's end");
  }
}

bool StridedNumbers::by_columns() const {
  return rows() > 1 && cols() > 1 && geometry_.row_stride < geometry_.col_stride;
}

bool StridedNumbers::contiguous() const {
  return (cols() == 1 || geometry_.col_stride == 1) &&
         (rows() == 1 || geometry_.row_stride == cols());
}

std::size_t StridedNumbers::offset_at(std::size_t row, std::size_t col) const {
  const std::size_t number = row * geometry_.row_stride + col * geometry_.col_stride;
  return offset_ + bytes_of(encoding_, number);
}

const std::byte* StridedNumbers::in_place(std::size_t first, std::size_t count) const {
  if (!file_->mapped() || !contiguous()) return nullptr;
  return file_->bytes(offset_at(first, 0), bytes_of(encoding_, count * cols()), {}).data();
}

void StridedNumbers::fetch(std::size_t offset, std::size_t length, std::byte* out) const {
  const auto found = file_->bytes(offset, length, {out, length});
  if (found.data() != out) std::memcpy(out, found.data(), length);
}

void StridedNumbers::gather(std::size_t first, std::size_t count, std::byte* out,
                            std::size_t ld) const {
  if (count == 0 || cols() == 0) return;
  const std::size_t row_bytes = bytes_of(encoding_, cols());
  if (contiguous() && ld == row_bytes) {
    fetch(offset_at(first, 0), count * row_bytes, out);
  } else if (geometry_.col_stride == 1) {
    for (std::size_t i = 0; i < count; ++i) fetch(offset_at(first + i, 0), row_bytes, out + i * ld);
  } else {
    switch (bytes_of(encoding_, 1)) {
      case 1:
        return pick<std::uint8_t>(first, count, out, ld);
      case 2:
        return pick<std::uint16_t>(first, count, out, ld);
      default:
        return pick<std::uint32_t>(first, count, out, ld);
    }
  }
}

// Runs go along the side whose numbers lie closer together; some are there at a time, and some of
// each.
template <class T>
void StridedNumbers::pick(std::size_t first, std::size_t count, std::byte* out,
                          std::size_t ld) const {
  constexpr std::size_t kSide = kTileBytes / sizeof(T);
  const bool across = by_columns();
  const std::size_t stride = across ? geometry_.row_stride : geometry_.col_stride;
  const std::size_t lines = across ? cols() : count;
  const std::size_t numbers = across ? count : cols();
  const std::size_t most = std::max<std::size_t>(1, kRunBytes / sizeof(T) / stride);
  const auto bytes = [&](std::size_t run) { return ((run - 1) * stride + 1) * sizeof(T); };
  const std::size_t longest = bytes(std::min(most, numbers));
  const AlignedBuffer<std::byte> scratch(file_->mapped() ? 0 : kSide * longest);
  std::array<const std::byte*, kSide> starts{};
  for (std::size_t k = 0; k < numbers; k += most) {
    const std::size_t part = std::min(most, numbers - k);
    for (std::size_t l = 0; l < lines; l += kSide) {
      const std::size_t some = std::min(kSide, lines - l);
      for (std::size_t i = 0; i < some; ++i) {
        const std::size_t at = across ? offset_at(first + k, l + i) : offset_at(first + l + i, k);
        const auto room = scratch.span().subspan(file_->mapped() ? 0 : i * longest);
        starts[i] = file_->bytes(at, bytes(part), room).data();
      }
      const Runs runs{starts.data(), some, part, stride * sizeof(T)};
      if (across) {
        put_down<T>(runs, out + k * ld + l * sizeof(T), ld);
      } else {
        put_across<T>(runs, out + l * ld + k * sizeof(T), ld);
      }
    }
  }
}

const std::byte* StridedNumbers::open(std::size_t first, std::size_t count,
                                      AlignedBuffer<std::byte>& scratch) const {
  if (const std::byte* const there = in_place(first, count)) return there;
  const std::size_t row_bytes = bytes_of(encoding_, cols());
  const std::size_t needed = checked_mul(count, row_bytes);
  if (scratch.size() < needed) scratch = AlignedBuffer<std::byte>(needed);
  gather(first, count, scratch.data(), row_bytes);
  return scratch.data();
}

StridedNumbers StridedNumbers::transposed() const {
  return {file_, offset_, encoding_, geometry_.transposed()};
}

bool StridedNumbers::same(const StridedNumbers& other, const CancelToken& cancel) const {
  if (encoding_ != other.encoding_ || rows() != other.rows() || cols() != other.cols()) {
    return false;
  }
  if (rows() == 0 || cols() == 0) return true;
  if (by_columns() && other.by_columns()) return transposed().same(other.transposed(), cancel);
  const std::size_t row_bytes = bytes_of(encoding_, cols());
  const std::size_t step =
      std::max<std::size_t>(1, kCompared / std::max<std::size_t>(1, row_bytes));
  AlignedBuffer<std::byte> mine;
  AlignedBuffer<std::byte> theirs;
  for (std::size_t row = 0; row < rows(); row += step) {
    cancel.check();
    const std::size_t count = std::min(step, rows() - row);
    if (std::memcmp(open(row, count, mine), other.open(row, count, theirs), count * row_bytes) !=
        0) {
      return false;
    }
  }
  return true;
}

}  // namespace loragraft
