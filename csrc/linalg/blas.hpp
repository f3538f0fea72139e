#pragma once

#include <cstddef>
#include <string>

#include "base/views.hpp"

namespace loragraft {

// The only door to BLAS and LAPACK. Matrices are row-major; sizes are checked against the 32-bit
// integers of the library; a failed LAPACK call is Errc::numeric. The library's own threads are
// off: loragraft runs many matrices at once instead.

enum class Transpose : bool { no, yes };

// c = alpha * op(a) op(b) + beta * c.
void gemm(Transpose ta, Transpose tb, float alpha, MatrixView<const float> a,
          MatrixView<const float> b, float beta, MatrixView<float> c);
void gemm(Transpose ta, Transpose tb, double alpha, MatrixView<const double> a,
          MatrixView<const double> b, double beta, MatrixView<double> c);

// Upper triangle of c += a^T a.
void add_gram(MatrixView<const double> a, MatrixView<double> c);

// Upper Cholesky factor in place, r^T r = g, the lower triangle zeroed; false when g is not
// positive definite to working precision.
bool cholesky(MatrixView<double> g);

// Inverse of an upper triangle, in place.
void invert_upper(MatrixView<double> r);

// Eigenvalues of a symmetric matrix (n, n), destroyed, decreasing, and eigenvectors: a = v diag
// v^T. Only the upper triangle is read.
void eigen(MatrixView<double> a, double* values, MatrixView<double> v);

// Singular values of a square matrix, destroyed, decreasing.
void singular_values(MatrixView<double> a, double* s);

// Thin singular value decomposition of a, destroyed: u (m, k), s (k), vt (k, n), k = min(m, n).
void svd(MatrixView<double> a, MatrixView<double> u, double* s, MatrixView<double> vt);

// Householder QR of a (m, n), m >= n: q replaces a, r (n, n) upper.
void householder_qr(MatrixView<double> a, MatrixView<double> r);

// What runs below: the library's configuration with the core it dispatched to.
std::string blas_description();

}  // namespace loragraft
