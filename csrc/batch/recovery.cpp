#include "batch/recovery.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace loragraft {
namespace {

void divide(const Matrix<float>& matrix, double divisor) {
  const auto factor = static_cast<float>(1.0 / divisor);
  std::for_each_n(matrix.data(), matrix.size(), [=](float& x) { x *= factor; });
}

std::size_t unchanged_entries(const CellMatrix& cells, const Run& run) {
  const Matrix<float> left(cells.rows(), 1);
  const Matrix<float> right(1, cells.cols());
  left.fill(0.0F);
  right.fill(0.0F);
  return cells.count_exact(pad_factors(cells, left.view(), right.view()).view(), run);
}

}  // namespace

void recover(const ModuleTask& task, const ModuleOptions& options, const Run& run,
             ModuleResult& result) {
  const RecoveryStart& start = *task.start;
  const std::size_t rows = task.base->rows();
  const std::size_t cols = task.base->cols();
  const CellMatrix cells(task.base, task.tuned,
                         {.encoding = start.encoding,
                          .stretch = stretch_for(rows, cols, start.left.cols()),
                          .slack = start.slack});
  ExactFactors found =
      exact_factors(cells, start.left.view(), start.right.view(), start.options, run);
  // alpha / rank is divided out of both factors alike.
  divide(found.left, std::sqrt(task.scaling));
  divide(found.right, std::sqrt(task.scaling));
  Factors factors = store_factors(std::move(found.left), std::move(found.right),
                                  {.dtype = options.dtype, .scaling = task.scaling});
  const PaddedFactors written = pad_factors(cells, factors.left.view(), factors.right.view());
  result.recovery = Recovery{.end = found.end,
                             .rounds = found.history.size(),
                             .outside = found.violations,
                             .exact = cells.count_exact(written.view(), run),
                             .changed = rows * cols - unchanged_entries(cells, run)};
  const DeltaOperator delta(task.base, task.tuned);
  result.residual_square = delta.residual(factors.left.view(), factors.right.view(), run);
  result.factors = std::move(factors.stored);
}

}  // namespace loragraft
