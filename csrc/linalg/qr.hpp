#pragma once

#include "base/views.hpp"

namespace loragraft {

// Orthonormalise the columns of y (m, l) in place, m >= l, and return r (l, l), upper triangular,
// with y_before = y_after * r to single precision.
//
// CholeskyQR2 (Fukaya, Nakatsukasa, Yanagisawa, Yamamoto, 2014) with the Gram matrices in double
// precision, so that it holds for every condition number that single-precision data can express;
// Householder QR where the Cholesky factorisation says that columns are dependent. Columns of a
// rank-deficient y come out as some orthonormal completion.
Matrix<double> orthonormalize(MatrixView<float> y);

}  // namespace loragraft
