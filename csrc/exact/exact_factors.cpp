#include "exact/exact_factors.hpp"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "exact/balanced_factors.hpp"
#include "exact/lbfgs.hpp"
#include "exact/weakest_direction.hpp"
#include "simd/isa.hpp"

namespace loragraft {
namespace {

// Singular values of the start below this share of the largest are taken for that: dividing by
// them would make steps of their triplets too long.
constexpr double kLeastValue = 1e-6;
// The first step: the gradient sees the entries outside their cells alone; the more are inside,
// the longer it may be.
constexpr double kFirstShare = 0.02;
// Sufficient decrease (Nocedal, Wright, condition 3.4), and the shortest step tried.
constexpr double kDecrease = 1e-4;
constexpr double kShortest = 1e-3;
// So few entries outside, as a share of all, are left there: the last ones of a large matrix, at
// the very ends of their cells, would take most of the time.
constexpr double kEnough = 1e-6;
// What patience means: see ExactOptions.
constexpr std::size_t kEarly = 10;
constexpr double kHopeless = 0.2;
constexpr double kProgress = 0.8;
// A search that stalls with no more than this share of entries outside may have come to rest at a
// saddle; another after this one must bring the square down by as much.
constexpr double kNear = 0.1;
constexpr double kWorthwhile = 0.5;

// The search. A point is X over Y, (m + n, w); its columns beyond the rank are zero.
class Search {
 public:
  Search(const CellMatrix& cells, MatrixView<const float> left, MatrixView<const float> right,
         const ExactOptions& options, const Run& run);

  // `fresh`: from a plain start, whose first rounds tell whether there is hope at all.
  ExactFactors find(bool fresh);

 private:
  void start(MatrixView<const float> left, MatrixView<const float> right);
  void evaluate(const Matrix<float>& point, Matrix<float>& gradient);
  bool descend();
  [[nodiscard]] bool patient(bool fresh) const;
  [[nodiscard]] CellMatrix::Factored factored(const Matrix<float>& point);
  [[nodiscard]] ExactFactors result(ExactEnd end);
  [[nodiscard]] MatrixView<float> top(const Matrix<float>& point) const {
    return {point.row(0), cells_.rows(), width_, width_};
  }
  [[nodiscard]] MatrixView<float> bottom(const Matrix<float>& point) const {
    return {point.row(cells_.rows()), cells_.cols(), width_, width_};
  }

  const CellMatrix& cells_;
  const ExactOptions& options_;
  const Run& run_;
  std::size_t rank_;
  std::size_t width_;
  std::vector<float> inverses_;  // of the singular values of the start, (w)
  Matrix<float> point_;
  Matrix<float> gradient_;
  Matrix<float> trial_;
  Matrix<float> trial_gradient_;
  Matrix<float> direction_;
  Matrix<float> right_;  // Y diag(s)^-1
  Lbfgs memory_;
  HingeSums accepted_;
  std::vector<HingeSums> history_;
};

Search::Search(const CellMatrix& cells, MatrixView<const float> left, MatrixView<const float> right,
               const ExactOptions& options, const Run& run)
    : cells_(cells),
      options_(options),
      run_(run),
      rank_(left.cols),
      width_(round_up(rank_, kWidthUnit)),
      inverses_(width_, 1.0F),
      point_(cells.rows() + cells.cols(), width_),
      gradient_(point_.rows(), width_),
      trial_(point_.rows(), width_),
      trial_gradient_(point_.rows(), width_),
      direction_(point_.rows(), width_),
      right_(cells.cols(), width_),
      memory_(point_.size(), options.memory) {
  start(left, right);
}

void Search::start(MatrixView<const float> left, MatrixView<const float> right) {
  const BalancedFactors svd = balanced(left, right);
  const double floor = svd.s[0] > 0.0 ? kLeastValue * svd.s[0] : 1.0;
  point_.fill(0.0F);
  for (std::size_t k = 0; k < rank_; ++k) {
    const double s = std::max(svd.s[k], floor);
    inverses_[k] = static_cast<float>(1.0 / s);
    for (std::size_t i = 0; i < cells_.rows(); ++i) {
      top(point_).row(i)[k] = static_cast<float>(svd.u.row(i)[k] * svd.s[k]);
    }
    for (std::size_t j = 0; j < cells_.cols(); ++j) {
      bottom(point_).row(j)[k] = static_cast<float>(svd.v.row(j)[k] * s);
    }
  }
}

CellMatrix::Factored Search::factored(const Matrix<float>& point) {
  const MatrixView<float> y = bottom(point);
  for (std::size_t j = 0; j < y.rows; ++j) {
    std::transform(y.row(j), y.row(j) + width_, inverses_.data(), right_.row(j),
                   std::multiplies<>());
  }
  return {top(point), right_.view(), rank_};
}

void Search::evaluate(const Matrix<float>& point, Matrix<float>& gradient) {
  const MatrixView<float> y = bottom(gradient);
  history_.push_back(cells_.evaluate(factored(point), {.left = top(gradient), .right = y}, run_));
  for (std::size_t j = 0; j < y.rows; ++j) {
    std::transform(y.row(j), y.row(j) + width_, inverses_.data(), y.row(j), std::multiplies<>());
  }
}

// One step along the quasi-Newton direction, shortened until it goes down; false when none does.
bool Search::descend() {
  const CellKernels& kernel = *kernels().cells;
  const std::size_t size = point_.size();
  std::copy_n(gradient_.data(), size, direction_.data());
  memory_.apply({direction_.data(), size});
  double step = 1.0;
  if (memory_.empty()) {
    const double share = static_cast<double>(accepted_.violations) /
                         (static_cast<double>(cells_.rows()) * static_cast<double>(cells_.cols()));
    step = 0.5 / std::max(share, kFirstShare);
  }
  const double slope = kernel.dot(gradient_.data(), direction_.data(), size);
  const double before = 0.5 * accepted_.square;
  if (!(slope > 0.0)) return false;
  while (step > kShortest && history_.size() < options_.rounds) {
    std::copy_n(point_.data(), size, trial_.data());
    kernel.axpy(static_cast<float>(-step), direction_.data(), trial_.data(), size);
    evaluate(trial_, trial_gradient_);
    const double after = 0.5 * history_.back().square;
    if (after <= before - kDecrease * step * slope) return true;
    // The minimum of the parabola through what is known.
    const double shorter = slope * step / (2.0 * (after - before + slope * step));
    step *= std::clamp(shorter, 0.1, 0.5);
  }
  return false;
}

bool Search::patient(bool fresh) const {
  const std::size_t done = history_.size();
  if (options_.patience == 0) return true;
  if (fresh && done > kEarly && accepted_.square > kHopeless * history_[0].square) return false;
  return done <= options_.patience ||
         accepted_.square < kProgress * history_[done - 1 - options_.patience].square;
}

ExactFactors Search::find(bool fresh) {
  evaluate(point_, gradient_);
  accepted_ = history_.back();
  const std::size_t size = point_.size();
  const double enough =
      kEnough * static_cast<double>(cells_.rows()) * static_cast<double>(cells_.cols());
  while (static_cast<double>(accepted_.violations) > enough) {
    if (history_.size() >= options_.rounds) return result(ExactEnd::rounds);
    if (!patient(fresh)) return result(ExactEnd::stalled);
    if (!descend()) {
      if (memory_.empty() || history_.size() >= options_.rounds) {
        return result(history_.size() >= options_.rounds ? ExactEnd::rounds : ExactEnd::stalled);
      }
      memory_.forget();
      continue;
    }
    const CellKernels& kernel = *kernels().cells;
    kernel.axpy(-1.0F, trial_.data(), point_.data(), size);
    kernel.axpy(-1.0F, trial_gradient_.data(), gradient_.data(), size);
    // Both differences have the other sign, which the pair does not mind.
    memory_.remember({point_.data(), size}, {gradient_.data(), size});
    std::swap(point_, trial_);
    std::swap(gradient_, trial_gradient_);
    accepted_ = history_.back();
  }
  return result(ExactEnd::feasible);
}

ExactFactors Search::result(ExactEnd end) {
  ExactFactors out{.left = Matrix<float>(cells_.rows(), rank_),
                   .right = Matrix<float>(rank_, cells_.cols()),
                   .end = end,
                   .violations = accepted_.violations,
                   .square = accepted_.square,
                   .exact = 0,
                   .history = {}};
  for (std::size_t k = 0; k < rank_; ++k) {
    const float root = std::sqrt(inverses_[k]);
    for (std::size_t i = 0; i < cells_.rows(); ++i) {
      out.left.row(i)[k] = top(point_).row(i)[k] * root;
    }
    for (std::size_t j = 0; j < cells_.cols(); ++j) {
      out.right.row(k)[j] = bottom(point_).row(j)[k] * root;
    }
  }
  out.exact =
      cells_.count_exact(pad_factors(cells_, out.left.view(), out.right.view()).view(), run_);
  out.history = std::move(history_);
  return out;
}

}  // namespace

const char* end_name(ExactEnd end) {
  switch (end) {
    case ExactEnd::feasible:
      return "feasible";
    case ExactEnd::stalled:
      return "stalled";
    case ExactEnd::rounds:
      return "rounds";
  }
  return "rounds";
}

double stretch_for(std::size_t rows, std::size_t cols, std::size_t rank) {
  // Of the width of a cell, at each end; measured, see benchmarks/NOTES.md.
  constexpr double kMost = 3e-3;
  constexpr double kShare = 0.03;
  const auto m = static_cast<double>(rows);
  const auto n = static_cast<double>(cols);
  const double freedom = (m + n) * static_cast<double>(rank) / (m * n);
  return 1.0 - 2.0 * std::min(kMost, kShare * freedom);
}

PaddedFactors pad_factors(const CellMatrix& cells, MatrixView<const float> left,
                          MatrixView<const float> right) {
  if (left.rows != cells.rows() || right.cols != cells.cols() || left.cols != right.rows ||
      left.cols == 0) {
    throw Error(Errc::invalid_argument, "rounding cells: factors do not fit the matrices");
  }
  const std::size_t width = round_up(left.cols, kWidthUnit);
  PaddedFactors out{Matrix<float>(left.rows, width), Matrix<float>(right.cols, width), left.cols};
  out.left.fill(0.0F);
  out.right.fill(0.0F);
  for (std::size_t i = 0; i < left.rows; ++i) {
    std::copy_n(left.row(i), left.cols, out.left.row(i));
  }
  for (std::size_t k = 0; k < right.rows; ++k) {
    for (std::size_t j = 0; j < right.cols; ++j) out.right.row(j)[k] = right.row(k)[j];
  }
  return out;
}

ExactFactors exact_factors(const CellMatrix& cells, MatrixView<const float> left,
                           MatrixView<const float> right, const ExactOptions& options,
                           const Run& run) {
  if (left.rows != cells.rows() || right.cols != cells.cols() || left.cols != right.rows ||
      left.cols == 0 || left.cols > std::min(left.rows, right.cols) || options.rounds == 0 ||
      options.memory == 0) {
    throw Error(Errc::invalid_argument, "exact factors: factors do not fit the matrices");
  }
  ExactFactors best = Search(cells, left, right, options, run).find(true);
  const auto size = static_cast<double>(left.rows) * static_cast<double>(right.cols);
  for (std::size_t swaps = 0; swaps < options.swaps; ++swaps) {
    const double share = static_cast<double>(best.violations) / size;
    ExactOptions rest = options;
    rest.rounds -= std::min(options.rounds, best.history.size());
    // The new direction has to be turned into place before the square falls any further.
    rest.patience *= 2;
    if (best.end == ExactEnd::feasible || share > kNear || rest.rounds == 0) break;
    const FactorPair next = replace_weakest(cells, best.left.view(), best.right.view(), share, run);
    ExactFactors found = Search(cells, next.left.view(), next.right.view(), rest, run).find(false);
    const double before = best.square;
    std::vector<HingeSums> history = std::move(best.history);
    history.insert(history.end(), found.history.begin(), found.history.end());
    if (found.square < before) best = std::move(found);
    best.history = std::move(history);
    if (best.square > kWorthwhile * before) break;
  }
  return best;
}

}  // namespace loragraft
