#include "linalg/blas.hpp"

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <limits>
#include <new>
#include <vector>

#include "base/error.hpp"

namespace loragraft {
namespace {

blasint narrow(std::size_t size) {
  if (size > static_cast<std::size_t>(std::numeric_limits<blasint>::max())) {
    throw Error(Errc::invalid_argument,
                "a dimension of " + std::to_string(size) + " exceeds what BLAS can address");
  }
  return static_cast<blasint>(size);
}

void check(lapack_int info, const char* routine) {
  if (info == LAPACK_WORK_MEMORY_ERROR || info == LAPACK_TRANSPOSE_MEMORY_ERROR) {
    throw std::bad_alloc();
  }
  if (info != 0) {
    throw Error(Errc::numeric, std::string(routine) + " failed with info " + std::to_string(info));
  }
}

CBLAS_TRANSPOSE flag(Transpose transpose) {
  return transpose == Transpose::yes ? CblasTrans : CblasNoTrans;
}

// Runs once, before the first call into the library.
void silence_threads() {
  static const bool done = [] {
    scipy_openblas_set_num_threads(1);
    return true;
  }();
  static_cast<void>(done);
}

template <class T>
std::size_t depth(Transpose ta, const MatrixView<T>& a) {
  return ta == Transpose::yes ? a.rows : a.cols;
}

}  // namespace

void gemm(Transpose ta, Transpose tb, float alpha, MatrixView<const float> a,
          MatrixView<const float> b, float beta, MatrixView<float> c) {
  silence_threads();
  scipy_cblas_sgemm(CblasRowMajor, flag(ta), flag(tb), narrow(c.rows), narrow(c.cols),
                    narrow(depth(ta, a)), alpha, a.data, narrow(a.ld), b.data, narrow(b.ld), beta,
                    c.data, narrow(c.ld));
}

void gemm(Transpose ta, Transpose tb, double alpha, MatrixView<const double> a,
          MatrixView<const double> b, double beta, MatrixView<double> c) {
  silence_threads();
  scipy_cblas_dgemm(CblasRowMajor, flag(ta), flag(tb), narrow(c.rows), narrow(c.cols),
                    narrow(depth(ta, a)), alpha, a.data, narrow(a.ld), b.data, narrow(b.ld), beta,
                    c.data, narrow(c.ld));
}

void add_gram(MatrixView<const double> a, MatrixView<double> c) {
  silence_threads();
  scipy_cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, narrow(a.cols), narrow(a.rows), 1.0,
                    a.data, narrow(a.ld), 1.0, c.data, narrow(c.ld));
}

bool cholesky(MatrixView<double> g) {
  silence_threads();
  // Row-major upper is column-major lower: the same memory, so no copy is made by LAPACKE.
  const lapack_int n = narrow(g.rows);
  const lapack_int info = scipy_LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'L', n, g.data, narrow(g.ld));
  if (info < 0) check(info, "dpotrf");
  for (std::size_t i = 1; i < g.rows; ++i) {
    for (std::size_t j = 0; j < i; ++j) g.row(i)[j] = 0.0;
  }
  return info == 0;
}

void invert_upper(MatrixView<double> r) {
  silence_threads();
  check(scipy_LAPACKE_dtrtri(LAPACK_COL_MAJOR, 'L', 'N', narrow(r.rows), r.data, narrow(r.ld)),
        "dtrtri");
}

void svd(MatrixView<double> a, MatrixView<double> u, double* s, MatrixView<double> vt) {
  silence_threads();
  // LAPACK reads row-major a as its transpose, whose left vectors are the rows of vt.
  check(scipy_LAPACKE_dgesdd(LAPACK_COL_MAJOR, 'S', narrow(a.cols), narrow(a.rows), a.data,
                             narrow(a.ld), s, vt.data, narrow(vt.ld), u.data, narrow(u.ld)),
        "dgesdd");
}

void eigen(MatrixView<double> a, double* values, MatrixView<double> v) {
  silence_threads();
  const std::size_t n = a.rows;
  // Row-major upper is column-major lower; LAPACK's columns, increasing, are the rows here.
  check(scipy_LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'L', narrow(n), a.data, narrow(a.ld), values),
        "dsyevd");
  std::reverse(values, values + n);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) v.row(i)[j] = a.row(n - 1 - j)[i];
  }
}

void singular_values(MatrixView<double> a, double* s) {
  silence_threads();
  const lapack_int n = narrow(a.rows);
  check(scipy_LAPACKE_dgesdd(LAPACK_COL_MAJOR, 'N', n, n, a.data, narrow(a.ld), s, nullptr, n,
                             nullptr, n),
        "dgesdd");
}

void householder_qr(MatrixView<double> a, MatrixView<double> r) {
  silence_threads();
  const lapack_int m = narrow(a.rows);
  const lapack_int n = narrow(a.cols);
  std::vector<double> tau(a.cols);
  check(scipy_LAPACKE_dgeqrf(LAPACK_ROW_MAJOR, m, n, a.data, narrow(a.ld), tau.data()), "dgeqrf");
  for (std::size_t i = 0; i < a.cols; ++i) {
    for (std::size_t j = 0; j < a.cols; ++j) r.row(i)[j] = j < i ? 0.0 : a.row(i)[j];
  }
  check(scipy_LAPACKE_dorgqr(LAPACK_ROW_MAJOR, m, n, n, a.data, narrow(a.ld), tau.data()),
        "dorgqr");
}

std::string blas_description() {
  silence_threads();
  return scipy_openblas_get_config();
}

}  // namespace loragraft
