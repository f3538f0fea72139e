#include "linalg/float_iteration.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/philox.hpp"
#include "linalg/qr.hpp"
#include "linalg/settling.hpp"
#include "linalg/triplets.hpp"

namespace loragraft {
namespace {

// Condition number up to which a subspace's triangle is divided out of a product made before it was
// known; see Iteration::finish_left.
constexpr double kFusedCondition = 100.0;

// Products of entries far from 1 leave the range of float: bring their root mean square near 1.
float scale_for(const TileSums& sums, std::size_t entries) {
  if (sums.delta <= 0.0) return 1.0F;
  const double rms = std::sqrt(sums.delta / static_cast<double>(entries));
  const int exponent = std::ilogb(rms);
  // 2^126 is the largest power of two whose reciprocal is a normal float.
  return std::abs(exponent) < 40 ? 1.0F : std::ldexp(1.0F, std::clamp(-exponent, -126, 126));
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

  // The left subspace of a right one.
  void start(Matrix<float> right) {
    right_ = std::move(right);
    left_pass(fuse_, nullptr);
    finish_left(fuse_);
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
    take_values(out, core_.s, rank);
    for (std::vector<double>* values : {&out.s, &out.further}) {
      for (double& value : *values) value /= scale_;
    }
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

// Half steps until the energy has settled, or as many as were asked for.
TruncatedSvd iterate(Iteration& iteration, LinearOperator& a, const SvdOptions& options,
                     const TileSums& sums) {
  const double scale = iteration.scale();
  SettlingRule rule(options.rank, sums.delta * scale * scale, std::min(a.rows(), a.cols()));
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

}  // namespace

TruncatedSvd float_iteration(LinearOperator& a, const SvdOptions& options, std::size_t width,
                             const Run& run) {
  Iteration iteration(a, width, run);
  const TileSums sums = iteration.sketch(options.key);
  return iterate(iteration, a, options, sums);
}

TruncatedSvd float_iteration(LinearOperator& a, const SvdOptions& options, Matrix<float> right,
                             const TileSums& sums, const Run& run) {
  Iteration iteration(a, right.cols(), run);
  iteration.start(std::move(right));
  return iterate(iteration, a, options, sums);
}

}  // namespace loragraft
