// Stored matrices of any shape, strides and offset, and the difference of two: entries as worked
// out one by one, whichever way they are asked for, mapped or read; or an Error.

#include <bit>
#include <cmath>

#include "linalg/operators.hpp"
#include "made_matrix.hpp"

namespace loragraft::fuzz {
namespace {

bool same(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

void check_rows(Input& input, const Made& made) {
  const StoredMatrix& matrix = *made.matrix;
  const std::size_t cols = matrix.cols();
  const std::size_t first = matrix.rows() == 0 ? 0 : input.upto(matrix.rows() - 1);
  const std::size_t count = input.upto(matrix.rows() - first);
  // Rows further apart than they need be.
  const std::size_t ld = cols + input.upto(3);
  std::vector<float> rows(count * ld + 1);
  double steps = 0.0;
  matrix.read(first, count,
              {DType::f32, reinterpret_cast<std::byte*>(rows.data()), ld * sizeof(float),
               input.upto(1) == 0 ? nullptr : &steps});
  AlignedBuffer<std::byte> scratch;
  const std::byte* const opened = matrix.open(first, count, scratch, nullptr);
  const std::size_t size = size_of(matrix.dtype());
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t j = 0; j < cols; ++j) {
      const float expected = made.entries[(first + i) * cols + j];
      require(same(rows[i * ld + j], expected), "entries that are read");
      float found = 0.0F;
      kernels_baseline().widen[static_cast<std::size_t>(matrix.dtype())](
          opened + (i * cols + j) * size, &found, 1);
      require(same(found, expected), "entries that are opened");
    }
  }
  require(matrix.rows() == 0 || cols == 0 || !matrix.path_at(first, 0).empty(), "a file to blame");
}

// Sums differ in their order from ours; with entries of all sizes only what is finite says
// anything.
void check_sums(const DeltaOperator& delta, const std::vector<float>& entries, const Run& run) {
  double squares = 0.0;
  for (const float x : entries) squares += static_cast<double>(x) * static_cast<double>(x);
  const double found = delta.measure(run).delta;
  const bool close = std::abs(found - squares) <= 1e-5 * squares;
  require(close || !std::isfinite(squares) || squares > 1e37 || squares < 1e-30, "squares");
}

void check_products(const DeltaOperator& delta, const Run& run) {
  const Matrix<float> x(delta.cols(), kWidthUnit);
  const Matrix<float> y(delta.rows(), kWidthUnit);
  const Matrix<float> z(delta.cols(), kWidthUnit);
  x.fill(0.5F);
  delta.times(x.view(), y.view(), run);
  delta.transpose_times(y.view(), z.view(), run);
  if (delta.back_pays(kWidthUnit)) delta.times_and_back(x.view(), y.view(), z.view(), run);
  const Matrix<float> left(delta.rows(), 2);
  const Matrix<float> right(2, delta.cols());
  left.fill(1.0F);
  right.fill(0.25F);
  require(!(delta.residual(left.view(), right.view(), run) < 0.0), "a residual is no less than 0");
}

void check_delta(Input& input, const Made& base, const Made& tuned, ThreadPool& pool) {
  const CancelToken cancel;
  const Run run{.pool = pool, .cancel = cancel};
  const DeltaOperator delta(base.matrix, tuned.matrix);
  const std::size_t cols = delta.cols();
  std::vector<float> expected(base.entries.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    expected[i] = tuned.entries[i] - base.entries[i];
  }
  const Matrix<double> whole(delta.rows(), cols);
  delta.materialize(whole.view(), run);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    require(same(static_cast<float>(whole.data()[i]), expected[i]), "a difference");
  }
  delta.visit_rows(0, delta.rows(), nullptr, [&](std::size_t row, const float* entries) {
    for (std::size_t j = 0; j < cols; ++j) {
      require(same(entries[j], expected[row * cols + j]), "a difference in a row");
    }
  });
  const bool identical = delta.identical(run);
  for (const float x : expected) {
    require(!identical || x == 0.0F || std::isnan(x), "identical sides do not differ");
  }
  check_sums(delta, expected, run);
  if (input.upto(1) == 0) check_products(delta, run);
}

}  // namespace
}  // namespace loragraft::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace loragraft;
  static ThreadPool pool(2);
  fuzz::Input input(data, size);
  const IoMode mode = input.upto(1) == 0 ? IoMode::mmap : IoMode::pread;
  const bool twice = input.upto(2) != 0;
  const std::size_t bytes = input.upto(6000);
  // The end of the input describes, its whole is the file's content, again and again.
  std::vector<std::uint8_t> content(bytes);
  for (std::size_t i = 0; i < bytes; ++i) content[i] = size == 0 ? 0 : data[(i * 5 + 3) % size];
  try {
    const fuzz::MemoryFile memory(content);
    const auto file = memory.open(mode);
    fuzz::Input again = input;
    const fuzz::Made base = fuzz::make_matrix(twice ? again : input, memory, file, 0);
    const fuzz::Made tuned = fuzz::make_matrix(input, memory, file, 0);
    fuzz::check_rows(input, base);
    fuzz::check_rows(input, tuned);
    fuzz::check_delta(input, base, tuned, pool);
  } catch (const Error& error) {
    fuzz::require(error.code() == Errc::format || error.code() == Errc::invalid_argument,
                  "the code of an error");
  }
  return 0;
}
