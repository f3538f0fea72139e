#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "exact/exact_factors.hpp"
#include "linalg/factors.hpp"
#include "linalg/operators.hpp"

namespace loragraft {

// Where the search for exact factors begins, and the cells that it aims at.
struct RecoveryStart {
  Matrix<float> left;   // (m, r)
  Matrix<float> right;  // (r, n)
  Encoding encoding = Encoding::bf16;
  double slack = 0.0;  // see CellOptions
  ExactOptions options;
};

// One pair of tensors to work on. Rank 0 measures the change and factors nothing.
struct ModuleTask {
  std::string name;
  DeltaOperator::Side base;
  DeltaOperator::Side tuned;
  std::size_t rank = 0;
  std::uint64_t key = 0;  // of the sketch
  double scaling = 1.0;
  // Set to find factors inside the rounding cells from here, instead of those of a truncated SVD.
  std::shared_ptr<const RecoveryStart> start = nullptr;
};

// What a search inside the rounding cells found.
struct Recovery {
  ExactEnd end = ExactEnd::rounds;
  std::size_t rounds = 0;
  std::size_t outside = 0;  // entries outside their cells, before the cast
  std::size_t exact = 0;    // entries that come out bit for bit, with the factors as written
  std::size_t changed = 0;  // entries that the base alone does not give bit for bit
};

struct ModuleOptions {
  std::size_t oversampling = 8;
  std::optional<std::size_t> power_iterations;
  std::optional<DType> dtype;  // of the factors
  Arithmetic arithmetic = Arithmetic::automatic;
  // Bytes of memory for each thread to keep a matrix's bytes in: enough for 48 million weights. The
  // results do not depend on it.
  std::size_t workspace = std::size_t{96} << 20;
  // Fill the lists of squares for every rank up to the task's.
  bool nested = false;
};

// Squared norms, all Frobenius and in double precision.
struct ModuleResult {
  bool unchanged = false;        // the stored bytes are equal, or every difference is zero
  double delta_square = 0.0;     // ||W_tuned - W_base||^2
  double base_square = 0.0;      // ||W_base||^2
  double rounding_square = 0.0;  // sum of (spacing of stored numbers at W_tuned)^2 / 12
  std::vector<double> singular_values;
  std::vector<double> further_values;  // beyond these, at most the true ones
  double optimal_square = 0.0;         // of the residual at the written rank, before the cast
  double residual_square = 0.0;        // of the residual as written
  // The same of the leading 1, 2, ... columns of lora_b and rows of lora_a.
  std::vector<double> optimal_squares;
  std::vector<double> residual_squares;
  std::size_t passes = 0;
  bool exact = false;
  StoredFactors factors;  // rank 0 when unchanged, or none was asked for
  // Where it was searched for; of the figures above only residual_square is known then.
  std::optional<Recovery> recovery;
  double seconds = 0.0;
};

// Measure one pair and, when it differs and a rank is asked for, factor the difference.
ModuleResult extract_module(const ModuleTask& task, const ModuleOptions& options, const Run& run);

}  // namespace loragraft
