#include "linalg/byte_iteration.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/philox.hpp"
#include "linalg/blas.hpp"
#include "linalg/byte_matrix.hpp"
#include "linalg/float_iteration.hpp"
#include "linalg/qr.hpp"
#include "linalg/settling.hpp"
#include "linalg/triplets.hpp"

namespace loragraft {
namespace {

// Energy that rounding leaves behind, in units of rank / min(m, n) * E: up to 3 were measured.
constexpr double kLossFactor = 4.0;
// Share of the energy left out that may be lost so: 2e-4 of the error.
constexpr double kLossShare = 4e-4;
// Share of the energy below which what is left out is not known from bytes: they give singular
// values to about 1e-5.
constexpr double kKnownShare = 1e-3;
// Exponents of the root mean square of entries whose squares and reciprocals are far from the
// limits of float.
constexpr int kModerate = 40;

bool moderate(const TileSums& sums, std::size_t entries) {
  if (sums.delta <= 0.0) return false;
  return std::abs(std::ilogb(std::sqrt(sums.delta / static_cast<double>(entries)))) < kModerate;
}

// After a half step A ~ left r^T right^T (the right side improved last) or left r right^T (the left
// side), as far as the precision sees A.
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

  // The left subspace of a random sketch; returns the sums over the entries.
  TileSums sketch() {
    Philox{options_.key}.fill_uniform(right_.data(), right_.size());
    const TileSums sums = bytes_.form_times(right_.view(), left_.view(), run_);
    ++passes_;
    require_finite(sums);
    if (moderate(sums, a_.rows() * a_.cols())) orthonormalize_roughly(left_.view());
    return sums;
  }

  // Half steps until the energy has settled, in bytes as long as they can tell; false where they
  // cannot.
  [[nodiscard]] bool settle(const TileSums& sums) {
    SettlingRule rule(options_.rank, sums.delta, std::min(a_.rows(), a_.cols()));
    for (std::size_t step = 0; step < kMaxHalfSteps && !rule.settles_next(); ++step) {
      half_step();
      const std::vector<double> found = squares();
      if (!good_enough(sums, found) && !refine()) return false;
      if (rule.settled(found)) break;
    }
    return true;
  }

  // Whether rounding is of no account beside the energy that the leading triplets leave out.
  [[nodiscard]] bool good_enough(const TileSums& sums, const std::vector<double>& squares) const {
    const auto leading = squares.begin() + static_cast<std::ptrdiff_t>(options_.rank);
    const double left_out = sums.delta - std::accumulate(squares.begin(), leading, 0.0);
    if (left_out < kKnownShare * sums.delta) return false;
    const auto share =
        static_cast<double>(options_.rank) / static_cast<double>(std::min(a_.rows(), a_.cols()));
    return kLossFactor * share * bytes_.error_square(precision_) <= kLossShare * left_out;
  }

  // Go on with both bytes; false when that was done already.
  bool refine() { return std::exchange(precision_, Precision::fine) == Precision::coarse; }

  // One more half step, with both bytes of all columns: where singular values are close, rounding
  // would choose between the directions and look like energy.
  [[nodiscard]] TruncatedSvd result() {
    multiply(Precision::fine);
    Triplets found = triplets_of(last().view(), other().view(), options_.rank);
    TruncatedSvd out;
    out.u = right_last_ ? transposed(found.of_product) : std::move(found.of_basis);
    out.vt = right_last_ ? transposed(found.of_basis) : std::move(found.of_product);
    out.s.assign(found.s.begin(), found.s.begin() + static_cast<std::ptrdiff_t>(options_.rank));
    out.passes = passes_;
    fix_signs(out);
    return out;
  }

  // The right subspace found so far, orthonormal.
  [[nodiscard]] Matrix<float> take_right() {
    if (!right_last_) half_step();
    orthonormalize(right_.view());
    return std::move(right_);
  }

 private:
  [[nodiscard]] const Matrix<float>& last() const { return right_last_ ? right_ : left_; }
  [[nodiscard]] const Matrix<float>& other() const { return right_last_ ? left_ : right_; }

  void half_step() {
    multiply(precision_);
    triangle_ = orthonormalize_roughly(other().view());
    right_last_ = !right_last_;
  }

  // Squared singular values of the matrix between the two subspaces.
  [[nodiscard]] std::vector<double> squares() const {
    const std::size_t l = triangle_.rows();
    const Matrix<double> copy(l, l);
    std::copy_n(triangle_.data(), triangle_.size(), copy.data());
    std::vector<double> s(l);
    singular_values(copy.view(), s.data());
    return squares_of(s);
  }

  // The other side becomes A, or A^T, times the last one.
  void multiply(Precision precision) {
    if (right_last_) {
      bytes_.times(right_.view(), left_.view(), precision, run_);
    } else {
      bytes_.transpose_times(left_.view(), right_.view(), precision, run_);
    }
    ++passes_;
  }

  LinearOperator& a_;
  const SvdOptions& options_;
  const Run& run_;
  Workspaces::Lease lease_;
  ByteMatrix bytes_;
  Precision precision_ = Precision::coarse;
  Matrix<float> right_;      // (n, l)
  Matrix<float> left_;       // (m, l)
  Matrix<double> triangle_;  // of the side orthonormalised last
  bool right_last_ = false;
  std::size_t passes_ = 0;
};

}  // namespace

TruncatedSvd byte_iteration(LinearOperator& a, const SvdOptions& options, std::size_t width,
                            const Run& run) {
  ByteIteration iteration(a, options, width, run);
  const TileSums sums = iteration.sketch();
  if (!moderate(sums, a.rows() * a.cols())) return float_iteration(a, options, width, run);
  if (iteration.settle(sums)) {
    TruncatedSvd result = iteration.result();
    result.sums = sums;
    if (iteration.good_enough(sums, squares_of(result.s))) return result;
  }
  return float_iteration(a, options, iteration.take_right(), sums, run);
}

}  // namespace loragraft
