#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "linalg/operators.hpp"

namespace loragraft {

// Leading eigenvectors of a symmetric matrix of which no eigenvalue is negative.
struct LeadingEigen {
  Matrix<float> vectors;       // (d, k), orthonormal to single precision
  std::vector<double> values;  // decreasing: the k leading ones and what is known of the rest
  // Share of the subspace that is taken for other directions than the leading ones, expected.
  double loss = 0.0;
};

// How much of a subspace may be other directions, which as a rule are the next ones.
inline constexpr double kSubspaceLoss = 0.015;

// All of g (d, d), both triangles, in double precision.
LeadingEigen all_eigen(MatrixView<const float> g, std::size_t k);

// Block Lanczos iteration, each block made orthogonal to all before (Golub and Underwood 1977):
// what powers of g make of a random block holds the leading subspace after far fewer products than
// iteration of one subspace needs, above all where eigenvalues lie close. Stops once `loss` is
// below kSubspaceLoss: a Ritz vector is off by its residual over the gap to what it is taken for
// (Davis and Kahan 1970), the gap being the one k/8 further on, for who of close neighbours is in
// is of no account. Nothing comes of a matrix whose powers say nothing new: of low rank, or with
// many equal eigenvalues.
std::optional<LeadingEigen> block_lanczos(MatrixView<const float> g, std::size_t k,
                                          std::uint64_t key, const Run& run);

}  // namespace loragraft
