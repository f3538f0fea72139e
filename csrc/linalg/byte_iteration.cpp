#include "linalg/byte_iteration.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "base/philox.hpp"
#include "linalg/blas.hpp"
#include "linalg/byte_matrix.hpp"
#include "linalg/float_iteration.hpp"
#include "linalg/gram.hpp"
#include "linalg/qr.hpp"
#include "linalg/settling.hpp"
#include "linalg/triplets.hpp"
#include "simd/isa.hpp"

namespace loragraft {
namespace {

// Energy that rounding leaves behind, in units of rank / side * E: up to 3 were measured.
constexpr double kLossFactor = 4.0;
// Share of the energy left out that may be lost so: 2e-4 of the error.
constexpr double kLossShare = 4e-4;
// Share of the energy below which what is left out is not known from bytes: they give singular
// values to about 1e-5.
constexpr double kKnownShare = 1e-3;
// Passes after which the rounding of single bytes is taken for what keeps iteration from settling.
constexpr std::size_t kMaxCoarse = 8;
// Exponents of the root mean square of entries whose squares and reciprocals are far from the
// limits of float.
constexpr int kModerate = 40;

bool moderate(const TileSums& sums, std::size_t entries) {
  if (sums.delta <= 0.0) return false;
  return std::abs(std::ilogb(std::sqrt(sums.delta / static_cast<double>(entries)))) < kModerate;
}

// Number of columns that the least spread of the right singular vectors lives on: n for one of
// Gaussian entries.
double effective_columns(const Matrix<float>& vt) {
  double least = static_cast<double>(vt.cols());
  for (std::size_t k = 0; k < vt.rows(); ++k) {
    double fourths = 0.0;
    for (const float x : std::span(vt.row(k), vt.cols())) {
      const double square = static_cast<double>(x) * static_cast<double>(x);
      fourths += square * square;
    }
    if (fourths > 0.0) least = std::min(least, 3.0 / fourths);
  }
  return least;
}

// Two subspaces that improve each other in turn.
class ByteIteration {
 public:
  ByteIteration(LinearOperator& a, const SvdOptions& options, std::size_t width, const Run& run)
      : a_(a),
        options_(options),
        run_(run),
        lease_(run.workspaces != nullptr ? run.workspaces->borrow() : Workspaces::Lease()),
        bytes_(a, lease_.buffer()),
        right_(a.cols(), width),
        left_(a.rows(), width) {}

  // The right subspace of a random sketch; returns the sums over the entries.
  TileSums sketch() {
    const TileSums sums = bytes_.form(run_);
    require_finite(sums);
    if (!moderate(sums, a_.rows() * a_.cols())) return sums;
    Philox{options_.key}.fill_bytes(left_.data(), left_.size());
    bytes_.transpose_times(left_.view(), right_.view(), Precision::coarse, run_);
    orthonormalize_roughly(right_.view());
    right_last_ = true;
    ++passes_;
    return sums;
  }

  // The triplets, once their energy has settled; nothing where bytes cannot tell.
  //
  // The last product is always A times the right side: its operand may be replaced by what its
  // bytes stand for. That of A^T is packed with the rows' units, which would turn the subspace
  // where they differ much.
  [[nodiscard]] std::optional<TruncatedSvd> iterate(const TileSums& sums) {
    SettlingRule rule(options_.rank, sums.delta, std::min(a_.rows(), a_.cols()));
    bool ready = false;
    while (passes_ < kMaxHalfSteps) {
      if (!half_step()) return std::nullopt;
      const std::vector<double> found = squares();
      const bool vain = passes_ > kMaxCoarse && precision_ == Precision::coarse;
      if ((vain || !good_enough(sums, found)) && !refine()) return std::nullopt;
      ready = rule.settled(found, resolution()) || rule.settles_next() || ready;
      if (!ready || !right_last_) continue;
      const std::optional<Triplets> last = last_product();
      if (!last || !good_enough(sums, squares_of(last->s))) return std::nullopt;
      if (rule.settled(squares_of(last->s), resolution())) return result(*last, sums);
      orthonormalize_roughly(left_.view());
      right_last_ = ready = false;
    }
    return std::nullopt;
  }

  // The right subspace found so far, orthonormal.
  [[nodiscard]] Matrix<float> take_right() {
    orthonormalize(right_.view());
    return std::move(right_);
  }

 private:
  // Whether rounding is of no account beside the energy that the leading triplets leave out.
  [[nodiscard]] bool good_enough(const TileSums& sums, const std::vector<double>& squares) const {
    const auto leading = squares.begin() + static_cast<std::ptrdiff_t>(options_.rank);
    const double left_out = sums.delta - std::accumulate(squares.begin(), leading, 0.0);
    if (left_out < kKnownShare * sums.delta) return false;
    const double side = std::min(bytes_.effective_rows(), static_cast<double>(a_.cols()));
    const double share = std::min(1.0, static_cast<double>(options_.rank) / std::max(1.0, side));
    return kLossFactor * share * bytes_.error_square(precision_) <= kLossShare * left_out;
  }

  // Go on with both bytes; false when that was done already.
  bool refine() { return std::exchange(precision_, Precision::fine) == Precision::coarse; }

  // One more half step, with both bytes of all columns: where singular values are close, rounding
  // would choose between the directions and look like energy.
  [[nodiscard]] std::optional<Triplets> last_product() {
    bytes_.times(right_.view(), left_.view(), Precision::fine, run_);
    ++passes_;
    return triplets_of(right_.view(), left_.view(), options_.rank);
  }

  [[nodiscard]] TruncatedSvd result(const Triplets& found, const TileSums& sums) const {
    TruncatedSvd out;
    out.u = transposed(found.of_product);
    out.vt = transposed(found.of_basis);
    take_values(out, found.s, options_.rank);
    out.passes = passes_;
    out.sums = sums;
    // The error's inner product with a matrix of the rank, the error being noise.
    const double entries = bytes_.effective_rows() * effective_columns(out.vt);
    out.energy_error = 2.0 * std::sqrt(static_cast<double>(options_.rank) / entries *
                                       bytes_.error_square(Precision::fine) / sums.delta);
    fix_signs(out);
    return out;
  }

  // The other side becomes A, or A^T, times the side improved last; false where that side's columns
  // became dependent in bytes.
  [[nodiscard]] bool half_step() {
    const MatrixView<float> from = right_last_ ? right_.view() : left_.view();
    const MatrixView<float> to = right_last_ ? left_.view() : right_.view();
    if (right_last_) {
      bytes_.times(from, to, precision_, run_);
    } else {
      bytes_.transpose_times(from, to, precision_, run_);
    }
    ++passes_;
    right_last_ = !right_last_;
    // What was multiplied is what the bytes stand for, from = q r: the matrix between q and the new
    // side is the new triangle over r.
    Matrix<double> inverse = rough_gram(from);
    if (!cholesky(inverse.view())) return false;
    invert_upper(inverse.view());
    const Matrix<double> triangle = orthonormalize_roughly(to);
    between_ = Matrix<double>(triangle.rows(), triangle.cols());
    gemm(Transpose::no, Transpose::no, 1.0, triangle.view(), inverse.view(), 0.0, between_.view());
    return true;
  }

  // A subspace in single bytes is turned by the relative error of its columns, whose peaks are five
  // times their root mean square, and shows less energy by the square of that.
  [[nodiscard]] double resolution() const {
    const double peak_steps = static_cast<double>(kernels().bytes->limit) / 5.0;
    return precision_ == Precision::coarse ? 1.0 / (12.0 * peak_steps * peak_steps) : 0.0;
  }

  // Squared singular values of the matrix between the two subspaces.
  [[nodiscard]] std::vector<double> squares() const {
    const std::size_t l = between_.rows();
    const Matrix<double> copy(l, l);
    std::copy_n(between_.data(), between_.size(), copy.data());
    std::vector<double> s(l);
    singular_values(copy.view(), s.data());
    return squares_of(s);
  }

  LinearOperator& a_;
  const SvdOptions& options_;
  const Run& run_;
  Workspaces::Lease lease_;
  ByteMatrix bytes_;
  Precision precision_ = Precision::coarse;
  Matrix<float> right_;     // (n, l)
  Matrix<float> left_;      // (m, l)
  Matrix<double> between_;  // (l, l), the matrix between the two subspaces
  bool right_last_ = false;
  std::size_t passes_ = 0;
};

}  // namespace

TruncatedSvd byte_iteration(LinearOperator& a, const SvdOptions& options, std::size_t width,
                            const Run& run) {
  ByteIteration iteration(a, options, width, run);
  const TileSums sums = iteration.sketch();
  if (!moderate(sums, a.rows() * a.cols())) return float_iteration(a, options, width, run);
  if (std::optional<TruncatedSvd> result = iteration.iterate(sums)) return *std::move(result);
  return float_iteration(a, options, iteration.take_right(), sums, run);
}

}  // namespace loragraft
