#pragma once

#include "base/views.hpp"

namespace loragraft {

// Orthonormalise the columns of y (m, l) in place, m >= l, and return r (l, l), upper triangular,
// with y_before = y_after * r to single precision.
//
// CholeskyQR2 (Fukaya, Nakatsukasa, Yanagisawa, Yamamoto, 2014) with the Gram matrices in double
// precision, so that it holds for every condition number that single-precision data can express.
// The second step is left out where the first was enough. Where the Cholesky factorisation says
// that columns are dependent, Householder QR takes over, and gives them some orthonormal
// completion.
Matrix<double> orthonormalize(MatrixView<float> y);

// The same to about 1e-3, at a fraction of the cost: for a subspace that is to be multiplied on.
// The columns span what they spanned, l a multiple of kWidthUnit.
Matrix<double> orthonormalize_roughly(MatrixView<float> y);

// y (m, l) <- y r^-1, r (l, l) upper triangular and nonsingular, in double precision.
void divide_right(MatrixView<float> y, const Matrix<double>& r);

}  // namespace loragraft
