#include "linalg/leading_subspaces.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "linalg/block_lanczos.hpp"
#include "linalg/qr.hpp"
#include "linalg/small_gram.hpp"
#include "linalg/triplets.hpp"
#include "simd/isa.hpp"

namespace loragraft {
namespace {

// Smaller sides above this cost more as a Gram matrix than iteration does, and much memory.
constexpr std::size_t kLongest = 4096;
// Matrices of so few entries have a full decomposition before a Gram matrix is set up.
constexpr std::size_t kSmall = 64 * std::size_t{64};
// Smaller sides up to which all eigenvectors cost less than looking for some.
constexpr std::size_t kAllSide = 640;
// Smaller sides below this gain nothing from bytes.
constexpr std::size_t kByteSide = 256;
// Share of the subspace that the rounding of entries to bytes may turn away.
constexpr double kByteLoss = 0.002;
// The same of single precision.
constexpr double kFloatLoss = 0.01;
// Exponents of the root mean square of entries whose fourth powers are far from the limits of
// float, summed up.
constexpr int kModerate = 20;
// Ratio of singular values above which single precision does not tell their vectors apart well.
constexpr double kSteep = 30.0;
// The same above which it does not tell them at all.
constexpr double kSteepest = 1000.0;

bool moderate(const TileSums& sums, std::size_t entries) {
  if (sums.delta <= 0.0) return false;
  return std::abs(std::ilogb(std::sqrt(sums.delta / static_cast<double>(entries)))) < kModerate;
}

// Share of the leading k directions that an error in the Gram matrix turns into others: squared
// first-order mixing, (e_ij / (t_i - t_j))^2, e_ij having the variance
// noise (t_i + t_j) + floor. Of the eigenvalues that follow only some may be known; they stand for
// the rest.
double mixing(const std::vector<double>& values, std::size_t k, std::size_t d, double noise,
              double floor) {
  if (values.size() <= k) return 0.0;
  const double weight = static_cast<double>(d - k) / static_cast<double>(values.size() - k);
  double sum = 0.0;
  for (std::size_t i = 0; i < k; ++i) {
    for (std::size_t j = k; j < values.size(); ++j) {
      const double gap = values[i] - values[j];
      const double variance = noise * (values[i] + std::max(0.0, values[j])) + floor;
      sum += variance < 0.5 * gap * gap ? weight * variance / (gap * gap) : 0.5;
    }
  }
  return sum / static_cast<double>(k);
}

// Variance of the entries of a Gram matrix in single precision, and of products with it.
double rounding(const std::vector<double>& values, double total, std::size_t d) {
  const double unit = 4.0 * static_cast<double>(std::numeric_limits<float>::epsilon());
  const auto side = static_cast<double>(d);
  const double entry = total / side + values.front() / std::sqrt(side);
  return unit * unit * entry * entry;
}

class Search {
 public:
  Search(const LinearOperator& a, const SvdOptions& options, const Run& run)
      : a_(a), options_(options), run_(run), side_(std::min(a.rows(), a.cols())) {}

  // Nothing where a Gram matrix is no good; `sums` are known afterwards.
  std::optional<TruncatedSvd> find() {
    const bool bytes = options_.arithmetic == Arithmetic::automatic && kernels().bytes != nullptr &&
                       side_ >= kByteSide;
    std::optional<LeadingEigen> found;
    if (bytes) found = leading(GramProducts::bytes, kByteLoss);
    if (!found && !refused_) found = leading(GramProducts::floats, kFloatLoss);
    if (!found) return std::nullopt;
    return result(*found);
  }

 private:
  std::optional<LeadingEigen> leading(GramProducts products, double most) {
    const SmallGram gram = small_gram(a_, products, run_);
    sums_ = gram.sums;
    require_finite(sums_);
    refused_ = !moderate(sums_, a_.rows() * a_.cols());
    if (refused_) return std::nullopt;
    const MatrixView<const float> g{gram.values.data(), side_, side_, gram.values.cols()};
    std::optional<LeadingEigen> found;
    if (side_ <= kAllSide) {
      found = all_eigen(g, options_.rank);
    } else {
      found = block_lanczos(g, options_.rank, options_.key, run_);
    }
    if (!found) return std::nullopt;
    const double noise =
        gram.error_square / (static_cast<double>(a_.rows()) * static_cast<double>(a_.cols()));
    const double floor = rounding(found->values, sums_.delta, side_);
    if (mixing(found->values, options_.rank, side_, noise, floor) > most) return std::nullopt;
    return found;
  }

  // One product with A, in single precision.
  [[nodiscard]] std::optional<TruncatedSvd> result(const LeadingEigen& found) const {
    const std::size_t k = options_.rank;
    const bool tall = a_.rows() >= a_.cols();
    const std::size_t width = round_up(k, kWidthUnit);
    const Matrix<float> padded(side_, width);
    padded.fill(0.0F);
    for (std::size_t i = 0; i < side_; ++i) std::copy_n(found.vectors.row(i), k, padded.row(i));
    const Matrix<float> image(std::max(a_.rows(), a_.cols()), width);
    if (tall) {
      a_.times(padded.view(), image.view(), run_);
    } else {
      a_.transpose_times(padded.view(), image.view(), run_);
    }
    const std::optional<Triplets> triplets =
        triplets_of({padded.data(), side_, k, width}, {image.data(), image.rows(), k, width}, k);
    if (!triplets || triplets->s.front() > kSteepest * triplets->s.back()) return std::nullopt;
    return finished(*triplets, tall);
  }

  [[nodiscard]] TruncatedSvd finished(const Triplets& triplets, bool tall) const {
    TruncatedSvd out;
    Matrix<float> other = transposed(triplets.of_product);
    // Its columns are quotients by the singular values: rounding shows in the last ones.
    if (triplets.s.front() > kSteep * triplets.s.back()) orthonormalize(other.view());
    out.u = tall ? std::move(other) : copy(triplets.of_basis);
    out.vt = transposed(tall ? triplets.of_basis : other);
    take_values(out, triplets.s, options_.rank);
    out.passes = 2;
    out.sums = sums_;
    fix_signs(out);
    return out;
  }

  static Matrix<float> copy(const Matrix<float>& in) {
    Matrix<float> out(in.rows(), in.cols());
    std::copy_n(in.data(), in.size(), out.data());
    return out;
  }

  const LinearOperator& a_;
  const SvdOptions& options_;
  const Run& run_;
  std::size_t side_;
  TileSums sums_;
  bool refused_ = false;
};

}  // namespace

TruncatedSvd leading_subspaces(LinearOperator& a, const SvdOptions& options, const Run& run) {
  const std::size_t side = std::min(a.rows(), a.cols());
  // Where many eigenvectors are wanted the search for them goes through most of the space.
  const bool searched = side > kAllSide;
  const bool fits = a.rows() * a.cols() > kSmall && side <= kLongest &&
                    (searched ? 5 * options.rank : options.rank) <= side;
  if (fits && options.rank > 0 && !options.power_iterations) {
    if (std::optional<TruncatedSvd> found = Search(a, options, run).find())
      return *std::move(found);
  }
  return truncated_svd(a, options, run);
}

}  // namespace loragraft
