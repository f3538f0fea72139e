#include "linalg/rsvd.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/philox.hpp"
#include "linalg/blas.hpp"
#include "linalg/qr.hpp"
#include "linalg/settling.hpp"

namespace loragraft {
namespace {

// Half steps after which iteration gives up on settling. Gaussian noise, the slowest spectrum met,
// settles after about 20.
constexpr std::size_t kMaxHalfSteps = 32;
// A full SVD of this many entries costs less than a sketch's bookkeeping.
constexpr std::size_t kSmall = 64 * std::size_t{64};

void require_finite(const TileSums& sums) {
  if (!std::isfinite(sums.delta)) throw Error(Errc::non_finite, "NaN or Inf among the entries");
}

// Products of entries far from 1 leave the range of float: bring their root mean square near 1.
float scale_for(const TileSums& sums, std::size_t entries) {
  if (sums.delta <= 0.0) return 1.0F;
  const double rms = std::sqrt(sums.delta / static_cast<double>(entries));
  const int exponent = std::ilogb(rms);
  // 2^126 is the largest power of two whose reciprocal is a normal float.
  return std::abs(exponent) < 40 ? 1.0F : std::ldexp(1.0F, std::clamp(-exponent, -126, 126));
}

struct SmallSvd {
  Matrix<double> u;
  std::vector<double> s;
  Matrix<double> vt;
};

SmallSvd small_svd(const Matrix<double>& a) {
  const std::size_t k = std::min(a.rows(), a.cols());
  SmallSvd out{Matrix<double>(a.rows(), k), std::vector<double>(k), Matrix<double>(k, a.cols())};
  Matrix<double> copy(a.rows(), a.cols());
  std::copy_n(a.data(), a.size(), copy.data());
  svd(copy.view(), out.u.view(), out.s.data(), out.vt.view());
  return out;
}

// out (m, k) = q (m, l) times the first k columns of w (l, l), rounded once.
Matrix<float> rotate(MatrixView<const float> q, const Matrix<double>& w, bool transposed,
                     std::size_t k) {
  Matrix<float> narrow(q.cols, k);
  for (std::size_t i = 0; i < q.cols; ++i) {
    for (std::size_t j = 0; j < k; ++j) {
      narrow.row(i)[j] = static_cast<float>(transposed ? w.row(j)[i] : w.row(i)[j]);
    }
  }
  Matrix<float> out(q.rows, k);
  gemm(Transpose::no, Transpose::no, 1.0F, q, narrow.view(), 0.0F, out.view());
  return out;
}

Matrix<float> transposed(const Matrix<float>& in) {
  Matrix<float> out(in.cols(), in.rows());
  for (std::size_t i = 0; i < in.rows(); ++i) {
    for (std::size_t j = 0; j < in.cols(); ++j) out.row(j)[i] = in.row(i)[j];
  }
  return out;
}

void fix_signs(TruncatedSvd& result) {
  const std::size_t m = result.u.rows();
  for (std::size_t j = 0; j < result.s.size(); ++j) {
    float largest = 0.0F;
    for (std::size_t i = 0; i < m; ++i) {
      const float entry = result.u.row(i)[j];
      if (std::abs(entry) > std::abs(largest)) largest = entry;
    }
    if (largest >= 0.0F) continue;
    for (std::size_t i = 0; i < m; ++i) result.u.row(i)[j] = -result.u.row(i)[j];
    for (float& entry : std::span(result.vt.row(j), result.vt.cols())) entry = -entry;
  }
}

TruncatedSvd full_svd(LinearOperator& a, const SvdOptions& options, const Run& run) {
  TruncatedSvd result;
  result.sums = a.measure(run);
  require_finite(result.sums);
  Matrix<double> dense(a.rows(), a.cols());
  a.materialize(dense.view(), run);
  const SmallSvd all = small_svd(dense);
  const std::size_t k = options.rank;
  result.u = Matrix<float>(a.rows(), k);
  result.vt = Matrix<float>(k, a.cols());
  result.s.assign(all.s.begin(), all.s.begin() + static_cast<std::ptrdiff_t>(k));
  for (std::size_t i = 0; i < a.rows(); ++i) std::copy_n(all.u.row(i), k, result.u.row(i));
  std::copy_n(all.vt.data(), result.vt.size(), result.vt.data());
  result.exact = true;
  fix_signs(result);
  return result;
}

// The subspaces of the iteration. After a half step A ~ left r right^T or its transpose; `r` holds
// the triangle of the side orthonormalised last.
struct Subspaces {
  Matrix<float> right;  // (n, l)
  Matrix<float> left;   // (m, l)
  Matrix<double> r;
};

TileSums sketch(LinearOperator& a, const SvdOptions& options, Subspaces& spaces, const Run& run) {
  Philox{options.key}.fill_uniform(spaces.right.data(), spaces.right.size());
  TileSums sums;
  a.times(spaces.right.view(), spaces.left.view(), run, &sums);
  require_finite(sums);
  const float scale = scale_for(sums, a.rows() * a.cols());
  if (scale != 1.0F) {
    a.set_scale(scale);
    a.times(spaces.right.view(), spaces.left.view(), run);
  }
  orthonormalize(spaces.left.view());
  return sums;
}

// Improve the right subspace (even steps) or the left one (odd steps).
void half_step(const LinearOperator& a, Subspaces& spaces, std::size_t step, const Run& run) {
  if (step % 2 == 0) {
    a.transpose_times(spaces.left.view(), spaces.right.view(), run);
    spaces.r = orthonormalize(spaces.right.view());
  } else {
    a.times(spaces.right.view(), spaces.left.view(), run);
    spaces.r = orthonormalize(spaces.left.view());
  }
}

std::vector<double> squares_of(const std::vector<double>& s) {
  std::vector<double> squares(s.size());
  std::ranges::transform(s, squares.begin(), [](double x) { return x * x; });
  return squares;
}

}  // namespace

TruncatedSvd truncated_svd(LinearOperator& a, const SvdOptions& options, const Run& run) {
  const std::size_t small_side = std::min(a.rows(), a.cols());
  if (options.rank == 0 || options.rank > small_side) {
    throw Error(Errc::invalid_argument, "rank " + std::to_string(options.rank) +
                                            ": expected 1 to " + std::to_string(small_side));
  }
  // Columns beyond the smaller side add nothing, however many are asked for.
  const std::size_t extra = std::min(options.oversampling, small_side);
  const std::size_t l = round_up(checked_add(options.rank, extra), kWidthUnit);
  if (l >= small_side || a.rows() * a.cols() <= kSmall) return full_svd(a, options, run);

  Subspaces spaces{Matrix<float>(a.cols(), l), Matrix<float>(a.rows(), l), {}};
  TruncatedSvd result;
  result.sums = sketch(a, options, spaces, run);
  const float scale = scale_for(result.sums, a.rows() * a.cols());
  const double scaled_total = result.sums.delta * static_cast<double>(scale) * scale;
  SettlingRule rule(options.rank, scaled_total);
  const std::size_t half_steps =
      options.power_iterations ? 2 * *options.power_iterations + 1 : kMaxHalfSteps;
  SmallSvd core;
  std::size_t step = 0;
  for (bool settled = false; step < half_steps && !settled; ++step) {
    half_step(a, spaces, step, run);
    core = small_svd(spaces.r);
    settled = !options.power_iterations && rule.settled(squares_of(core.s));
  }
  result.passes = step + 1;

  // right r = A^T left, so A ~ left r^T right^T; after an odd step A ~ left r right^T.
  const bool right_last = step % 2 == 1;
  result.u = rotate(spaces.left.view(), right_last ? core.vt : core.u, right_last, options.rank);
  result.vt = transposed(
      rotate(spaces.right.view(), right_last ? core.u : core.vt, !right_last, options.rank));
  result.s.assign(core.s.begin(), core.s.begin() + static_cast<std::ptrdiff_t>(options.rank));
  for (double& value : result.s) value /= scale;
  a.set_scale(1.0F);
  fix_signs(result);
  return result;
}

}  // namespace loragraft
