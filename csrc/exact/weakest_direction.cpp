#include "exact/weakest_direction.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "exact/balanced_factors.hpp"
#include "exact/orthonormal.hpp"
#include "linalg/triplets.hpp"

namespace loragraft {
namespace {

// Vectors that R is tried on at once, and how often: its leading values lie apart by a fifth.
constexpr std::size_t kMostTests = kWidthUnit;
constexpr std::size_t kIterations = 3;
constexpr double kFirstShare = 0.02;

struct Triplet {
  std::vector<double> u;
  std::vector<double> v;
  double s = 0.0;
};

Matrix<double> columns_of(const Matrix<float>& a, std::size_t first, std::size_t count) {
  Matrix<double> out(a.rows(), count);
  for (std::size_t i = 0; i < a.rows(); ++i) std::copy_n(a.row(i) + first, count, out.row(i));
  return out;
}

// +1 or -1, as good as at random (the finaliser of SplitMix64).
float random_sign(std::uint64_t index) {
  std::uint64_t x = (index + 1) * 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBU;
  return ((x ^ (x >> 31U)) & 1U) != 0 ? 1.0F : -1.0F;
}

void put(const Matrix<double>& block, MatrixView<float> into, std::size_t first) {
  for (std::size_t i = 0; i < block.rows(); ++i) {
    std::transform(block.row(i), block.row(i) + block.cols(), into.row(i) + first,
                   [](double x) { return static_cast<float>(x); });
  }
}

// Factors with room for test vectors behind their own columns: these do not count for L, but their
// products with R come with the gradients.
class Residual {
 public:
  Residual(const CellMatrix& cells, MatrixView<const float> left, MatrixView<const float> right,
           const Run& run)
      : cells_(cells),
        run_(run),
        rank_(left.cols),
        first_(round_up(rank_, kWidthUnit)),
        tests_(std::min({kMostTests, left.rows, right.cols})) {
    const std::size_t width = first_ + kMostTests;
    for (Matrix<float>* matrix : {&left_, &left_gradient_}) *matrix = {cells.rows(), width};
    for (Matrix<float>* matrix : {&right_, &right_gradient_}) *matrix = {cells.cols(), width};
    left_.fill(0.0F);
    right_.fill(0.0F);
    for (std::size_t i = 0; i < left.rows; ++i) std::copy_n(left.row(i), rank_, left_.row(i));
    for (std::size_t k = 0; k < rank_; ++k) {
      for (std::size_t j = 0; j < right.cols; ++j) right_.row(j)[k] = right.row(k)[j];
    }
    for (std::size_t j = 0; j < right_.rows(); ++j) {
      for (std::size_t k = 0; k < tests_; ++k) {
        right_.row(j)[first_ + k] = random_sign(j * tests_ + k);
      }
    }
  }

  Triplet leading() {
    Orthonormal across;
    for (std::size_t i = 0; i < kIterations; ++i) {
      multiply();
      put(orthonormal(columns_of(left_gradient_, first_, tests_)).q, left_.view(), first_);
      multiply();
      across = orthonormal(columns_of(right_gradient_, first_, tests_));
      put(across.q, right_.view(), first_);
    }
    // R^T U = Q T, so U^T R has the singular values of T, and R nearly has them too.
    const SmallSvd svd = small_svd(across.r);
    Triplet out{std::vector<double>(cells_.rows(), 0.0), std::vector<double>(cells_.cols(), 0.0),
                svd.s[0]};
    for (std::size_t k = 0; k < tests_; ++k) {
      for (std::size_t i = 0; i < out.u.size(); ++i) {
        out.u[i] += left_.row(i)[first_ + k] * svd.vt.row(0)[k];
      }
      for (std::size_t j = 0; j < out.v.size(); ++j) {
        out.v[j] += across.q.row(j)[k] * svd.u.row(k)[0];
      }
    }
    return out;
  }

 private:
  void multiply() {
    cells_.evaluate({left_.view(), right_.view(), rank_},
                    {.left = left_gradient_.view(), .right = right_gradient_.view()}, run_);
  }

  const CellMatrix& cells_;
  const Run& run_;
  std::size_t rank_;
  std::size_t first_;
  std::size_t tests_;
  Matrix<float> left_;
  Matrix<float> right_;
  Matrix<float> left_gradient_;
  Matrix<float> right_gradient_;
};

}  // namespace

FactorPair replace_weakest(const CellMatrix& cells, MatrixView<const float> left,
                           MatrixView<const float> right, double share, const Run& run) {
  const Triplet fastest = Residual(cells, left, right, run).leading();
  const BalancedFactors own = balanced(left, right);
  const std::size_t rank = left.cols;
  FactorPair out{Matrix<float>(left.rows, rank), Matrix<float>(rank, right.cols)};
  const double root = std::sqrt(0.5 * fastest.s / std::max(share, kFirstShare));
  for (std::size_t k = 0; k < rank; ++k) {
    const bool last = k + 1 == rank;
    const double scale = last ? root : std::sqrt(own.s[k]);
    for (std::size_t i = 0; i < left.rows; ++i) {
      out.left.row(i)[k] = static_cast<float>(scale * (last ? -fastest.u[i] : own.u.row(i)[k]));
    }
    for (std::size_t j = 0; j < right.cols; ++j) {
      out.right.row(k)[j] = static_cast<float>(scale * (last ? fastest.v[j] : own.v.row(j)[k]));
    }
  }
  return out;
}

}  // namespace loragraft
