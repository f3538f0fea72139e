#include "stored/stacked_matrix.hpp"

#include <algorithm>
#include <utility>

namespace loragraft {
namespace {

using Parts = StackedMatrix::Parts;

const StoredMatrix& first_of(const Parts& parts) {
  if (parts.empty()) throw Error(Errc::invalid_argument, "a stack of no matrices");
  return *parts.front();
}

[[noreturn]] void refuse(std::size_t one, std::size_t other, const char* what) {
  throw Error(Errc::format,
              "matrices of " + std::to_string(one) + " and " + std::to_string(other) + " " + what);
}

std::size_t rows_of(const Parts& parts) {
  std::size_t rows = 0;
  for (const auto& part : parts) rows = checked_add(rows, part->rows());
  return rows;
}

bool decodes(const Parts& parts) {
  return std::ranges::any_of(parts, [&](const auto& part) {
    return part->decoded() || part->dtype() != first_of(parts).dtype();
  });
}

}  // namespace

StackedMatrix::StackedMatrix(Parts parts, Order order)
    : StoredMatrix(rows_of(parts), first_of(parts).cols(),
                   decodes(parts) ? DType::f32 : first_of(parts).dtype(), decodes(parts)),
      parts_(std::move(parts)),
      order_(order) {
  const std::size_t height = parts_.front()->rows();
  for (const auto& part : parts_) {
    part->require_weights();
    if (part->cols() != cols()) refuse(cols(), part->cols(), "columns cannot be stacked");
    if (order_ == Order::interleaved && part->rows() != height) {
      refuse(height, part->rows(), "rows cannot be interleaved");
    }
  }
}

bool StackedMatrix::by_columns() const {
  return std::ranges::any_of(parts_, [](const auto& part) { return part->by_columns(); });
}

StackedMatrix::Place StackedMatrix::place_of(std::size_t row) const {
  if (order_ == Order::interleaved) return {row % parts_.size(), row / parts_.size()};
  std::size_t part = 0;
  while (row >= parts_[part]->rows()) row -= parts_[part++]->rows();
  return {part, row};
}

void StackedMatrix::read(std::size_t first, std::size_t count, const Target& out) const {
  if (order_ == Order::interleaved) {
    const std::size_t n = parts_.size();
    for (std::size_t i = 0; i < std::min(n, count); ++i) {
      const Place from = place_of(first + i);
      parts_[from.part]->read(from.row, ceil_div(count - i, n),
                              {out.dtype, out.data + i * out.ld, n * out.ld, out.steps});
    }
    return;
  }
  for (std::size_t done = 0; done < count;) {
    const Place from = place_of(first + done);
    const std::size_t some = std::min(count - done, parts_[from.part]->rows() - from.row);
    parts_[from.part]->read(from.row, some,
                            {out.dtype, out.data + done * out.ld, out.ld, out.steps});
    done += some;
  }
}

const std::byte* StackedMatrix::in_place(std::size_t first, std::size_t count) const {
  if (decoded() || count == 0) return nullptr;
  const Place from = place_of(first);
  const bool alone = order_ == Order::stacked ? count <= parts_[from.part]->rows() - from.row
                                              : count == 1 || parts_.size() == 1;
  return alone ? parts_[from.part]->in_place(from.row, count) : nullptr;
}

bool StackedMatrix::same_bytes(const StoredMatrix& other, const CancelToken& cancel) const {
  const auto* const stack = dynamic_cast<const StackedMatrix*>(&other);
  const auto same_shape = [](const auto& a, const auto& b) { return a->rows() == b->rows(); };
  if (stack == nullptr || stack->order_ != order_ ||
      !std::ranges::equal(parts_, stack->parts_, same_shape)) {
    return StoredMatrix::same_bytes(other, cancel);
  }
  return std::ranges::equal(parts_, stack->parts_, [&](const auto& a, const auto& b) {
    return a->same_bytes(*b, cancel);
  });
}

std::vector<FileRange> StackedMatrix::ranges() const {
  std::vector<FileRange> all;
  for (const auto& part : parts_) {
    const std::vector<FileRange> some = part->ranges();
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

const std::string& StackedMatrix::path_at(std::size_t row, std::size_t col) const {
  const Place from = place_of(row);
  return parts_[from.part]->path_at(from.row, col);
}

}  // namespace loragraft
