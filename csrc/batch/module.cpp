#include "batch/module.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "batch/recovery.hpp"
#include "linalg/nested.hpp"
#include "linalg/residual.hpp"
#include "simd/isa.hpp"

namespace loragraft {
namespace {

// Below this share of ||dW||^2, the energy left out is no longer known from the difference of two
// sums of single-precision singular values and is summed directly.
constexpr double kDirectBelow = 1e-2;
// The residual of the factors as written follows from the triplets where it is above this share and
// their energy is known this much better.
constexpr double kNearAbove = 0.1;
constexpr double kNearShare = 5e-7;

double rounding_square(const TileSums& sums, const StoredMatrix& tuned) {
  const double steps = tuned.decoded()
                           ? sums.steps
                           : sums.binade * std::ldexp(1.0, -2 * mantissa_bits(tuned.dtype()));
  return steps / 12.0;
}

// Read a mapped tensor's pages, in pieces small enough to stop between them on a slow disk.
void bring_in(const StoredMatrix& matrix, const Run& run) {
  constexpr std::size_t kPiece = std::size_t{32} << 20;
  for (const FileRange& range : matrix.ranges()) {
    for (std::size_t begin = 0; begin < range.length; begin += kPiece) {
      run.cancel.check();
      range.file->populate(range.offset + begin, std::min(kPiece, range.length - begin));
    }
  }
}

void check_unchanged(const ModuleTask& task) {
  task.base->check_unchanged();
  task.tuned->check_unchanged();
}

// Where the first NaN or Inf stands, for the message.
std::string locate_non_finite(const StoredMatrix& matrix, const Run& run) {
  const std::size_t step = std::min(matrix.rows(), matrix.rows_at_once());
  const Matrix<float> values(step, matrix.cols());
  for (std::size_t first = 0; first < matrix.rows(); first += step) {
    run.cancel.check();
    const std::size_t count = std::min(step, matrix.rows() - first);
    matrix.read(first, count,
                {.dtype = DType::f32,
                 .data = reinterpret_cast<std::byte*>(values.data()),
                 .ld = matrix.cols() * sizeof(float),
                 .steps = nullptr});
    const float* const end = values.row(count);
    const float* const found = std::find_if_not<const float*>(
        values.row(0), end, [](float x) { return std::isfinite(x); });
    if (found == end) continue;
    const auto at = static_cast<std::size_t>(found - values.data());
    const std::size_t i = first + at / matrix.cols();
    const std::size_t j = at % matrix.cols();
    // A vector comes as a matrix of one row.
    const std::string row = matrix.rows() > 1 ? std::to_string(i) + ", " : "";
    return std::string(std::isnan(*found) ? "NaN" : "Inf") + " at [" + row + std::to_string(j) +
           "] in " + matrix.path_at(i, j);
  }
  return {};
}

[[noreturn]] void throw_non_finite(const ModuleTask& task, const Run& run) {
  std::string where = locate_non_finite(*task.base, run);
  if (where.empty()) where = locate_non_finite(*task.tuned, run);
  if (where.empty()) where = "the difference of the two sides, or its factors, overflow float32";
  throw Error(Errc::non_finite, "tensor '" + task.name + "': " + where +
                                    "; finite weights are needed, check the checkpoint");
}

double optimal_square(const DeltaOperator& delta, const TruncatedSvd& svd, const Run& run) {
  double left_out = svd.sums.delta;
  for (const double value : svd.s) left_out -= value * value;
  if (left_out > kDirectBelow * svd.sums.delta) return left_out;
  const Factors uncast = make_factors(svd, svd.s.size(), {.dtype = DType::f32, .scaling = 1.0});
  return delta.residual(uncast.left.view(), uncast.right.view(), run);
}

void factor(const ModuleTask& task, const ModuleOptions& options, DeltaOperator& delta,
            const Run& run, ModuleResult& result) {
  const TruncatedSvd svd = truncated_svd(delta,
                                         {.rank = task.rank,
                                          .oversampling = options.oversampling,
                                          .power_iterations = options.power_iterations,
                                          .key = task.key,
                                          .arithmetic = options.arithmetic},
                                         run);
  result.delta_square = svd.sums.delta;
  result.base_square = svd.sums.base;
  result.rounding_square = rounding_square(svd.sums, *task.tuned);
  result.passes = svd.passes;
  result.exact = svd.exact;
  result.unchanged = svd.sums.delta == 0.0;
  if (result.unchanged) return;
  result.singular_values = svd.s;
  result.further_values = svd.further;
  result.optimal_square = optimal_square(delta, svd, run);
  Factors factors = make_factors(svd, task.rank, {.dtype = options.dtype, .scaling = task.scaling});
  const double left_out = result.optimal_square / result.delta_square;
  const bool near = left_out > kNearAbove && svd.energy_error < kNearShare * left_out;
  result.residual_square = near ? residual_near(svd, factors.left.view(), factors.right.view())
                                : delta.residual(factors.left.view(), factors.right.view(), run);
  if (!std::isfinite(result.residual_square) || !std::isfinite(result.optimal_square)) {
    throw Error(Errc::non_finite, "the factors overflow");
  }
  if (options.nested) {
    result.optimal_squares = nested_optima(svd, result.optimal_square);
    result.residual_squares =
        nested_residuals(svd, factors.left.view(), factors.right.view(), result.residual_square);
  }
  result.factors = std::move(factors.stored);
}

void compare(const ModuleTask& task, const ModuleOptions& options, const Run& run,
             ModuleResult& result) {
  DeltaOperator delta(task.base, task.tuned);
  result.unchanged = delta.identical(run);
  if (result.unchanged) return;
  if (task.rank > 0) {
    factor(task, options, delta, run, result);
    return;
  }
  const TileSums sums = delta.measure(run);
  result.delta_square = sums.delta;
  result.base_square = sums.base;
  result.rounding_square = rounding_square(sums, *task.tuned);
  result.unchanged = sums.delta == 0.0;
  if (!std::isfinite(sums.delta)) throw Error(Errc::non_finite, "NaN or Inf");
}

}  // namespace

ModuleResult extract_module(const ModuleTask& task, const ModuleOptions& options, const Run& run) {
  const auto start = std::chrono::steady_clock::now();
  bring_in(*task.base, run);
  bring_in(*task.tuned, run);
  ModuleResult result;
  try {
    if (task.start) {
      recover(task, options, run, result);
    } else {
      compare(task, options, run, result);
    }
  } catch (const Error& error) {
    // Of a file that is going, anything can be wrong.
    check_unchanged(task);
    if (error.code() != Errc::non_finite) throw;
    throw_non_finite(task, run);
  }
  check_unchanged(task);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace loragraft
