#include "linalg/project.hpp"

#include "linalg/blas.hpp"

namespace loragraft {
namespace {

Matrix<float> product(Transpose ta, MatrixView<const float> a, Transpose tb,
                      MatrixView<const float> b) {
  Matrix<float> out(ta == Transpose::yes ? a.cols : a.rows, tb == Transpose::yes ? b.rows : b.cols);
  gemm(ta, tb, 1.0F, a, b, 0.0F, out.view());
  return out;
}

void require(bool holds) {
  if (!holds) throw Error(Errc::invalid_argument, "project: shapes of the operands do not fit");
}

}  // namespace

void project_dense(MatrixView<const float> d, MatrixView<const float> u, MatrixView<const float> v,
                   MatrixView<float> out) {
  require(d.rows == u.rows && d.cols == v.rows && out.rows == d.rows && out.cols == d.cols);
  const Matrix<float> left = product(Transpose::yes, u, Transpose::no, d);            // (p, n)
  const Matrix<float> core = product(Transpose::no, left.view(), Transpose::no, v);   // (p, q)
  const Matrix<float> wide = product(Transpose::no, core.view(), Transpose::yes, v);  // (p, n)
  gemm(Transpose::no, Transpose::no, 1.0F, u, wide.view(), 0.0F, out);
}

void project_factors(MatrixView<const float> b, MatrixView<const float> a,
                     MatrixView<const float> u, MatrixView<const float> v,
                     const FactoredProjection& out) {
  require(b.rows == u.rows && a.cols == v.rows && b.cols == a.rows);
  require(out.b.rows == b.rows && out.b.cols == b.cols && out.a.rows == a.rows &&
          out.a.cols == a.cols);
  const Matrix<float> left = product(Transpose::yes, u, Transpose::no, b);  // (p, r)
  gemm(Transpose::no, Transpose::no, 1.0F, u, left.view(), 0.0F, out.b);
  const Matrix<float> right = product(Transpose::no, a, Transpose::no, v);  // (r, q)
  gemm(Transpose::no, Transpose::yes, 1.0F, right.view(), v, 0.0F, out.a);
}

}  // namespace loragraft
