#pragma once

#include <optional>
#include <vector>

#include "linalg/rsvd.hpp"

namespace loragraft {

// The end of every truncated decomposition: from two subspaces and the small matrix between them to
// singular triplets.

struct SmallSvd {
  Matrix<double> u;
  std::vector<double> s;
  Matrix<double> vt;
};

SmallSvd small_svd(const Matrix<double>& a);

// The triplets of A, restricted to a subspace from the left or the right side.
struct Triplets {
  Matrix<float> of_basis;    // (rows of the basis, k)
  std::vector<double> s;     // (l), all singular values
  Matrix<float> of_product;  // (k, rows of the product), a row for each triplet
};

// The leading k triplets of A within the span of `basis` (m, l), given product = A^T basis (n, l).
// The basis need be orthonormal to single precision's square root only; its Gram matrix is divided
// out; nothing comes of dependent columns. With A^T in the place of A it is the same for a basis of
// the right side.
std::optional<Triplets> triplets_of(MatrixView<const float> basis, MatrixView<const float> product,
                                    std::size_t k);

// out (m, k) = q (m, l) times the first k columns of w (l, l), or of its transpose; rounded once.
Matrix<float> rotate(MatrixView<const float> q, const Matrix<double>& w, bool transposed,
                     std::size_t k);

Matrix<float> transposed(const Matrix<float>& in);

// Take the leading k of all singular values, and some that follow.
void take_values(TruncatedSvd& result, const std::vector<double>& all, std::size_t k);

// Make the largest |u| entry of every triplet positive.
void fix_signs(TruncatedSvd& result);

std::vector<double> squares_of(const std::vector<double>& s);

// Throws Errc::non_finite where NaN or Inf took part in the sums.
void require_finite(const TileSums& sums);

}  // namespace loragraft
