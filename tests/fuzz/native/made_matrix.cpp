#include "made_matrix.hpp"

#include <array>
#include <bit>

#include "stored/plain_matrix.hpp"
#include "stored/scaled_matrix.hpp"
#include "stored/stacked_matrix.hpp"

namespace loragraft::fuzz {
namespace {

constexpr std::size_t kMostEntries = 4096;
constexpr std::size_t kSide = 40;

struct Place {
  std::size_t offset;
  Encoding encoding;
  Geometry geometry;
};

Place any_place(Input& input, std::size_t rows, std::size_t cols) {
  // Two numbers to a byte come with their scales alone.
  constexpr std::array kChoices = {Encoding::bf16,    Encoding::f16,    Encoding::f32,
                                   Encoding::f8_e4m3, Encoding::i8,     Encoding::f8_e5m2,
                                   Encoding::u8,      Encoding::f8_e8m0};
  const Encoding encoding = kChoices.at(input.upto(kChoices.size() - 1));
  const std::size_t offset = input.number(70);
  switch (input.upto(2)) {
    case 0:
      return {offset, encoding, {rows, cols, cols, 1}};
    case 1:
      return {offset, encoding, {rows, cols, 1, rows}};
    default:
      return {offset, encoding, {rows, cols, input.number(90), input.number(90)}};
  }
}

float number_at(Encoding encoding, const std::uint8_t* at) {
  std::uint16_t half = 0;
  std::uint32_t word = 0;
  switch (encoding) {
    case Encoding::bf16:
      std::memcpy(&half, at, sizeof(half));
      return widen_bf16(half);
    case Encoding::f16:
      std::memcpy(&half, at, sizeof(half));
      return widen_f16(half);
    case Encoding::f32:
      std::memcpy(&word, at, sizeof(word));
      return std::bit_cast<float>(word);
    case Encoding::f8_e4m3:
      return widen_f8_e4m3(*at);
    case Encoding::f8_e5m2:
      return widen_f8_e5m2(*at);
    case Encoding::i8:
      return static_cast<float>(static_cast<std::int8_t>(*at));
    case Encoding::u8:
      return static_cast<float>(*at);
    default:
      return widen_f8_e8m0(*at);
  }
}

std::vector<float> numbers_of(const MemoryFile& memory, const Place& place) {
  const Geometry& g = place.geometry;
  std::vector<float> entries;
  for (std::size_t i = 0; i < g.rows; ++i) {
    for (std::size_t j = 0; j < g.cols; ++j) {
      const std::size_t number = i * g.row_stride + j * g.col_stride;
      const std::size_t at = place.offset + number * bytes_of(place.encoding, 1);
      require(at + bytes_of(place.encoding, 1) <= memory.bytes().size(), "entries are in the file");
      entries.push_back(number_at(place.encoding, memory.bytes().data() + at));
    }
  }
  return entries;
}

StridedNumbers open_place(const std::shared_ptr<const MappedFile>& file, const Place& place) {
  StridedNumbers numbers(file, place.offset, place.encoding, place.geometry);
  // What fits the file may still be too much to work out: entries may lie over one another.
  if (numbers.rows() > kMostEntries || numbers.cols() > kMostEntries ||
      numbers.rows() * numbers.cols() > kMostEntries) {
    throw Error(Errc::invalid_argument, "too many for a test");
  }
  return numbers;
}

Made plain(Input& input, const MemoryFile& memory, const std::shared_ptr<const MappedFile>& file) {
  const std::size_t rows = input.number(kSide);
  const Place place = any_place(input, rows, input.number(kSide));
  auto matrix = std::make_shared<PlainMatrix>(open_place(file, place));
  return {std::move(matrix), numbers_of(memory, place)};
}

Made scaled(Input& input, const MemoryFile& memory, const std::shared_ptr<const MappedFile>& file) {
  const std::size_t rows = input.upto(kSide);
  const std::size_t cols = input.upto(kSide);
  const ScaledMatrix::Block block{input.number(20), input.number(20)};
  const std::size_t down = block.rows == 0 ? 0 : ceil_div(rows, block.rows);
  const std::size_t across = block.cols == 0 ? 0 : ceil_div(cols, block.cols);
  const Place codes = any_place(input, rows, cols);
  const Place scales = any_place(input, down, across + (input.upto(30) == 0 ? 1 : 0));
  const double factor = input.upto(1) == 0 ? 1.0 : input.take<double>();
  auto matrix = std::make_shared<ScaledMatrix>(open_place(file, codes), open_place(file, scales),
                                               block, factor);
  std::vector<float> entries = numbers_of(memory, codes);
  const std::vector<float> of_blocks = numbers_of(memory, scales);
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < cols; ++j) {
      const float scale = of_blocks[i / block.rows * across + j / block.cols];
      entries[i * cols + j] *= static_cast<float>(factor * static_cast<double>(scale));
    }
  }
  return {std::move(matrix), std::move(entries)};
}

Made microscaled(Input& input, const MemoryFile& memory,
                 const std::shared_ptr<const MappedFile>& file) {
  ScaledMatrix::Microscaled what{.blocks_file = file, .scales_file = file};
  what.blocks_offset = input.number(50);
  what.scales_offset = input.number(50);
  what.rows = input.upto(12);
  what.cols = input.upto(20) == 0 ? input.number(64) : 32 * input.upto(3);
  what.first_row = input.number(3);
  what.row_step = input.number(3);
  auto matrix = std::shared_ptr<const StoredMatrix>(ScaledMatrix::microscaled(what));
  if (matrix->cols() > kMostEntries) throw Error(Errc::invalid_argument, "too many for a test");
  std::vector<float> entries;
  const std::uint8_t* const bytes = memory.bytes().data();
  for (std::size_t i = 0; i < what.rows; ++i) {
    const std::size_t row = what.first_row + what.row_step * i;
    for (std::size_t j = 0; j < what.cols; ++j) {
      const std::uint8_t pair = bytes[what.blocks_offset + row * (what.cols / 2) + j / 2];
      const float scale =
          widen_f8_e8m0(bytes[what.scales_offset + row * (what.cols / 32) + j / 32]);
      const auto code = static_cast<std::uint8_t>(j % 2 == 0 ? pair & 15U : pair >> 4U);
      entries.push_back(scale * widen_f4_e2m1(code));
    }
  }
  return {std::move(matrix), std::move(entries)};
}

Made stack(Input& input, const MemoryFile& memory, const std::shared_ptr<const MappedFile>& file,
           int depth) {
  const bool interleaved = input.upto(1) == 1;
  const std::size_t count = input.upto(4);
  StackedMatrix::Parts parts;
  std::vector<std::vector<float>> entries;
  for (std::size_t i = 0; i < count; ++i) {
    // The same bytes of the input as for the first, for shapes that fit.
    Input again = input;
    Made part = make_matrix(i + 1 < count ? again : input, memory, file, depth + 1);
    parts.push_back(part.matrix);
    entries.push_back(std::move(part.entries));
    if (input.upto(3) == 0) input.take<std::uint8_t>();
  }
  auto matrix = std::make_shared<StackedMatrix>(
      parts, interleaved ? StackedMatrix::Order::interleaved : StackedMatrix::Order::stacked);
  const std::size_t cols = matrix->cols();
  std::vector<float> all;
  for (std::size_t i = 0; i < matrix->rows(); ++i) {
    std::size_t part = interleaved ? i % count : 0;
    std::size_t row = interleaved ? i / count : i;
    while (!interleaved && row >= parts[part]->rows()) row -= parts[part++]->rows();
    const auto first = entries[part].begin() + static_cast<std::ptrdiff_t>(row * cols);
    all.insert(all.end(), first, first + static_cast<std::ptrdiff_t>(cols));
  }
  return {std::move(matrix), std::move(all)};
}

}  // namespace

Made make_matrix(Input& input, const MemoryFile& memory,
                 const std::shared_ptr<const MappedFile>& file, int depth) {
  switch (input.upto(depth < 3 ? 5 : 3)) {
    case 0:
    case 1:
      return plain(input, memory, file);
    case 2:
      return scaled(input, memory, file);
    case 3:
      return microscaled(input, memory, file);
    default:
      return stack(input, memory, file, depth);
  }
}

}  // namespace loragraft::fuzz
