#include "linalg/unit_lines.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "linalg/byte_matrix.hpp"
#include "simd/isa.hpp"

namespace loragraft {
namespace {

// Smaller matrices gain nothing from bytes.
constexpr std::size_t kByteEntries = std::size_t{1} << 20;
// Rows measured by one task: partial sums are added in the order of the tasks.
constexpr std::size_t kRows = 512;

// Of every line, the sum of squared entries times gain.
std::vector<double> squares_of_lines(const LinearOperator& a, Lines lines,
                                     std::span<const float> gain, const Run& run) {
  const bool by_rows = lines == Lines::rows;
  std::vector<double> total(by_rows ? a.rows() : a.cols(), 0.0);
  std::vector<std::vector<double>> parts(ceil_div(a.rows(), kRows));
  run.pool.parallel_for(parts.size(), [&](std::size_t part) {
    run.cancel.check();
    const std::size_t first = part * kRows;
    std::vector<float> scaled(a.cols());
    if (!by_rows) parts[part].assign(a.cols(), 0.0);
    const auto visit = [&](std::size_t row, const float* entries) {
      if (by_rows) {
        std::copy_n(entries, a.cols(), scaled.data());
        if (!gain.empty()) {
          std::transform(entries, entries + a.cols(), gain.begin(), scaled.begin(),
                         [](float x, float by) { return x * by; });
        }
        total[row] = kernels().sum_squares(scaled.data(), a.cols());
        return;
      }
      const float by = gain.empty() ? 1.0F : gain[row];
      std::transform(entries, entries + a.cols(), parts[part].begin(), parts[part].begin(),
                     [by](float x, double sum) {
                       const auto entry = static_cast<double>(x * by);
                       return sum + entry * entry;
                     });
    };
    a.visit_rows(first, std::min(kRows, a.rows() - first), nullptr, visit);
  });
  for (const std::vector<double>& part : parts) {
    std::transform(part.begin(), part.end(), total.begin(), total.begin(), std::plus<>());
  }
  return total;
}

// `right` with its rows times gain, and zero columns up to a width that the kernels take.
Matrix<float> scaled_rows(MatrixView<const float> right, std::span<const float> gain) {
  Matrix<float> out(right.rows, round_up(right.cols, kWidthUnit));
  out.fill(0.0F);
  for (std::size_t i = 0; i < right.rows; ++i) {
    const float by = gain.empty() ? 1.0F : gain[i];
    std::transform(right.row(i), right.row(i) + right.cols, out.row(i),
                   [by](float x) { return x * by; });
  }
  return out;
}

void multiply(const LinearOperator& a, Lines lines, MatrixView<float> x, MatrixView<float> y,
              const Run& run) {
  if (kernels().bytes == nullptr || a.rows() * a.cols() < kByteEntries) {
    lines == Lines::rows ? a.times(x, y, run) : a.transpose_times(x, y, run);
    return;
  }
  const AlignedBuffer<std::byte> space(ByteMatrix::bytes_for(a));
  ByteMatrix bytes(a, space.span());
  bytes.form(run);
  if (lines == Lines::rows) {
    bytes.times(x, y, Precision::coarse, run);
  } else {
    bytes.transpose_times(x, y, Precision::coarse, run);
  }
}

}  // namespace

Matrix<float> unit_lines_times(const LinearOperator& a, Lines lines, std::span<const float> gain,
                               MatrixView<const float> right, const Run& run) {
  const std::size_t count = lines == Lines::rows ? a.rows() : a.cols();
  const std::size_t length = lines == Lines::rows ? a.cols() : a.rows();
  if (right.rows != length || (!gain.empty() && gain.size() != length)) {
    throw Error(Errc::invalid_argument, "unit lines: operand shapes do not fit the matrix");
  }
  const std::vector<double> squares = squares_of_lines(a, lines, gain, run);
  const Matrix<float> x = scaled_rows(right, gain);
  const Matrix<float> y(count, x.cols());
  multiply(a, lines, x.view(), y.view(), run);
  Matrix<float> out(count, right.cols);
  for (std::size_t i = 0; i < count; ++i) {
    if (!std::isfinite(squares[i])) throw Error(Errc::non_finite, "NaN or Inf among the entries");
    const auto by = static_cast<float>(squares[i] > 0.0 ? 1.0 / std::sqrt(squares[i]) : 0.0);
    std::transform(y.row(i), y.row(i) + right.cols, out.row(i), [by](float v) { return v * by; });
  }
  return out;
}

}  // namespace loragraft
