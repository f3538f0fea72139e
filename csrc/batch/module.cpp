#include "batch/module.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

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

double rounding_square(const TileSums& sums, DType dtype) {
  return sums.binade * std::ldexp(1.0, -2 * mantissa_bits(dtype)) / 12.0;
}

// Read a mapped tensor's pages, in pieces small enough to stop between them on a slow disk.
void bring_in(const StoredMatrix& matrix, const Run& run) {
  constexpr std::size_t kPiece = std::size_t{32} << 20;
  const std::size_t total = matrix.nbytes();
  for (std::size_t begin = 0; begin < total; begin += kPiece) {
    run.cancel.check();
    matrix.file->populate(matrix.offset + begin, std::min(kPiece, total - begin));
  }
}

// Where the first NaN or Inf stands, for the message.
std::string locate_non_finite(const StoredMatrix& matrix, const Run& run) {
  const std::size_t row_bytes = matrix.cols * size_of(matrix.dtype);
  const AlignedBuffer<std::byte> scratch(row_bytes);
  const AlignedBuffer<float> values(matrix.cols);
  for (std::size_t i = 0; i < matrix.rows; ++i) {
    run.cancel.check();
    const auto bytes = matrix.file->bytes(matrix.offset + i * row_bytes, row_bytes, scratch.span());
    kernels().widen[static_cast<std::size_t>(matrix.dtype)](bytes.data(), values.data(),
                                                            matrix.cols);
    for (std::size_t j = 0; j < matrix.cols; ++j) {
      if (std::isfinite(values[j])) continue;
      // A vector comes as a matrix of one row.
      const std::string row = matrix.rows > 1 ? std::to_string(i) + ", " : "";
      return std::string(std::isnan(values[j]) ? "NaN" : "Inf") + " at [" + row +
             std::to_string(j) + "] in " + matrix.file->path();
    }
  }
  return {};
}

[[noreturn]] void throw_non_finite(const ModuleTask& task, const Run& run) {
  std::string where = locate_non_finite(task.base, run);
  if (where.empty()) where = locate_non_finite(task.tuned, run);
  if (where.empty()) where = "the difference of the two sides, or its factors, overflow float32";
  throw Error(Errc::non_finite, "tensor '" + task.name + "': " + where +
                                    "; finite weights are needed, check the checkpoint");
}

double optimal_square(const DeltaOperator& delta, const TruncatedSvd& svd, std::size_t rank,
                      const Run& run) {
  double left_out = svd.sums.delta;
  for (std::size_t i = 0; i < rank; ++i) left_out -= svd.s[i] * svd.s[i];
  if (left_out > kDirectBelow * svd.sums.delta) return left_out;
  const Factors uncast = make_factors(svd, rank, {.dtype = DType::f32, .scaling = 1.0});
  return delta.residual(uncast.left.view(), uncast.right.view(), run);
}

void factor(const ModuleTask& task, std::size_t index, const ModuleOptions& options,
            DeltaOperator& delta, const Run& run, ModuleResult& result) {
  const TruncatedSvd svd = truncated_svd(delta,
                                         {.rank = task.rank,
                                          .oversampling = options.oversampling,
                                          .power_iterations = options.power_iterations,
                                          .key = task.key,
                                          .arithmetic = options.arithmetic},
                                         run);
  result.delta_square = svd.sums.delta;
  result.base_square = svd.sums.base;
  result.rounding_square = rounding_square(svd.sums, task.tuned.dtype);
  result.passes = svd.passes;
  result.exact = svd.exact;
  result.unchanged = svd.sums.delta == 0.0;
  if (result.unchanged) return;
  result.singular_values = svd.s;
  std::size_t rank = task.rank;
  if (options.choose_rank) {
    rank = options.choose_rank(index, {.singular_values = result.singular_values,
                                       .delta_square = result.delta_square,
                                       .rounding_square = result.rounding_square});
  }
  if (rank == 0) return;
  if (rank > svd.s.size()) {
    throw Error(Errc::invalid_argument, "rank " + std::to_string(rank) + " chosen of " +
                                            std::to_string(svd.s.size()) + " computed");
  }
  result.optimal_square = optimal_square(delta, svd, rank, run);
  Factors factors = make_factors(svd, rank, {.dtype = options.dtype, .scaling = task.scaling});
  const double left_out = result.optimal_square / result.delta_square;
  const bool near = left_out > kNearAbove && svd.energy_error < kNearShare * left_out;
  result.residual_square = near ? residual_near(svd, factors.left.view(), factors.right.view())
                                : delta.residual(factors.left.view(), factors.right.view(), run);
  if (!std::isfinite(result.residual_square) || !std::isfinite(result.optimal_square)) {
    throw Error(Errc::non_finite, "the factors overflow");
  }
  result.factors = std::move(factors.stored);
}

}  // namespace

ModuleResult extract_module(const ModuleTask& task, std::size_t index, const ModuleOptions& options,
                            const Run& run) {
  const auto start = std::chrono::steady_clock::now();
  bring_in(task.base, run);
  bring_in(task.tuned, run);
  DeltaOperator delta(task.base, task.tuned);
  ModuleResult result;
  result.unchanged = delta.identical(run);
  try {
    if (!result.unchanged && task.rank > 0) {
      factor(task, index, options, delta, run, result);
    } else if (!result.unchanged) {
      const TileSums sums = delta.measure(run);
      result.delta_square = sums.delta;
      result.base_square = sums.base;
      result.rounding_square = rounding_square(sums, task.tuned.dtype);
      result.unchanged = sums.delta == 0.0;
      if (!std::isfinite(sums.delta)) throw Error(Errc::non_finite, "NaN or Inf");
    }
  } catch (const Error& error) {
    if (error.code() != Errc::non_finite) throw;
    throw_non_finite(task, run);
  }
  task.base.file->check_unchanged();
  task.tuned.file->check_unchanged();
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace loragraft
