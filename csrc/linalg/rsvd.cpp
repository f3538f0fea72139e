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
// Condition number up to which a subspace's triangle is divided out of a product made before it was
// known; see Iteration::finish_left.
constexpr double kFusedCondition = 100.0;
// Largest smaller side for which a full SVD is preferred to a wide subspace: it cannot be stopped
// half way, and takes less than a second up to here.
constexpr std::size_t kDenseSide = 1024;
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

// Subspace iteration on one matrix. After a half step A ~ left r^T right^T (the right side
// improved last) or left r right^T (the left side).
class Iteration {
 public:
  Iteration(LinearOperator& a, std::size_t width, const Run& run)
      : a_(a),
        run_(run),
        fuse_(a.back_pays(width)),
        right_(a.cols(), width),
        left_(a.rows(), width),
        ahead_(fuse_ ? a.cols() : 0, width) {}

  // The left subspace of a random sketch; returns the sums over the entries.
  TileSums sketch(std::uint64_t key) {
    Philox{key}.fill_uniform(right_.data(), right_.size());
    TileSums sums;
    left_pass(fuse_, &sums);
    require_finite(sums);
    scale_ = scale_for(sums, a_.rows() * a_.cols());
    if (scale_ != 1.0F) {
      a_.set_scale(scale_);
      left_pass(fuse_, nullptr);
    }
    finish_left(fuse_);
    return sums;
  }

  // Improve the side whose turn it is. `more` tells that the other side's turn will come.
  void half_step(bool more) {
    if (right_last_) {
      left_pass(fuse_ && more, nullptr);
      finish_left(fuse_ && more);
    } else {
      if (ahead_valid_) {
        std::swap(right_, ahead_);
        ahead_valid_ = false;
      } else {
        a_.transpose_times(left_.view(), right_.view(), run_);
        ++passes_;
      }
      core_ = small_svd(orthonormalize(right_.view()));
    }
    right_last_ = !right_last_;
  }

  [[nodiscard]] const std::vector<double>& singular_values() const { return core_.s; }
  [[nodiscard]] float scale() const { return scale_; }

  [[nodiscard]] TruncatedSvd result(std::size_t rank) const {
    TruncatedSvd out;
    const bool flip = right_last_;
    out.u = rotate(left_.view(), flip ? core_.vt : core_.u, flip, rank);
    out.vt = transposed(rotate(right_.view(), flip ? core_.u : core_.vt, !flip, rank));
    out.s.assign(core_.s.begin(), core_.s.begin() + static_cast<std::ptrdiff_t>(rank));
    for (double& value : out.s) value /= scale_;
    out.passes = passes_;
    fix_signs(out);
    return out;
  }

 private:
  void left_pass(bool and_back, TileSums* sums) {
    if (and_back) {
      a_.times_and_back(right_.view(), left_.view(), ahead_.view(), run_, sums);
    } else {
      a_.times(right_.view(), left_.view(), run_, sums);
    }
    ++passes_;
  }

  // Orthonormalise left = A right. What the same pass computed ahead, A^T (A right), becomes A^T Q
  // by dividing out the triangle, unless that would lift rounding errors too far: they grow with
  // the square of the condition number, and beyond kFusedCondition the pass is made again.
  void finish_left(bool ahead) {
    const Matrix<double> r = orthonormalize(left_.view());
    core_ = small_svd(r);
    const double smallest = core_.s.back();
    ahead_valid_ = ahead && smallest > 0.0 && core_.s.front() <= kFusedCondition * smallest;
    if (ahead_valid_) divide_right(ahead_.view(), r);
  }

  LinearOperator& a_;
  const Run& run_;
  bool fuse_;
  Matrix<float> right_;  // (n, l)
  Matrix<float> left_;   // (m, l)
  Matrix<float> ahead_;  // (n, l), the next right side before it is orthonormalised
  bool ahead_valid_ = false;
  bool right_last_ = false;
  SmallSvd core_;  // of the triangle of the side orthonormalised last
  float scale_ = 1.0F;
  std::size_t passes_ = 0;
};

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
  // A subspace of nearly all dimensions costs more than all of them, and settles slowly.
  const bool dense = 4 * l >= 3 * small_side && small_side <= kDenseSide;
  if (l >= small_side || dense || a.rows() * a.cols() <= kSmall) return full_svd(a, options, run);

  Iteration iteration(a, l, run);
  const TileSums sums = iteration.sketch(options.key);
  const double scale = iteration.scale();
  SettlingRule rule(options.rank, sums.delta * scale * scale, small_side);
  const std::size_t fixed = options.power_iterations ? 2 * *options.power_iterations + 1 : 0;
  const std::size_t most = options.power_iterations ? fixed : kMaxHalfSteps;
  for (std::size_t step = 1; step <= most; ++step) {
    iteration.half_step(step < most && (fixed > 0 || !rule.settles_next()));
    if (fixed == 0 && rule.settled(squares_of(iteration.singular_values()))) break;
  }
  a.set_scale(1.0F);
  TruncatedSvd result = iteration.result(options.rank);
  result.sums = sums;
  return result;
}

}  // namespace loragraft
