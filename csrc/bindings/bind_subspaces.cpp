#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>

#include "bindings/arrays.hpp"
#include "bindings/register.hpp"
#include "linalg/best_products.hpp"
#include "linalg/leading_subspaces.hpp"
#include "linalg/triplets.hpp"
#include "linalg/unit_lines.hpp"

namespace loragraft::bindings {
namespace {

template <class T>
py::array_t<T> array_of(const Matrix<T>& values) {
  py::array_t<T> out({values.rows(), values.cols()});
  std::copy_n(values.data(), values.size(), out.mutable_data());
  return out;
}

py::array_t<float> narrowed(const std::vector<double>& values) {
  py::array_t<float> out(static_cast<py::ssize_t>(values.size()));
  std::ranges::transform(values, out.mutable_data(),
                         [](double x) { return static_cast<float>(x); });
  return out;
}

// What was computed of a matrix whose file went meanwhile is an Error of that, whatever else it is.
template <class Work>
auto of_unchanged(const StoredMatrix& matrix, const Work& work) {
  try {
    auto result = work();
    matrix.check_unchanged();
    return result;
  } catch (const Error&) {
    matrix.check_unchanged();
    throw;
  }
}

// U (m, k), s (k), V (n, k) and the Frobenius norm of the whole.
py::tuple subspaces_of(const std::shared_ptr<StoredMatrix>& matrix, std::size_t rank,
                       std::optional<std::size_t> power_iterations, std::uint64_t key,
                       std::size_t threads) {
  TruncatedSvd svd;
  Matrix<float> v;
  {
    const py::gil_scoped_release release;
    ThreadPool pool(threads);
    const CancelToken never;
    StoredOperator a(matrix);
    svd = of_unchanged(*matrix, [&] {
      return leading_subspaces(a, {.rank = rank, .power_iterations = power_iterations, .key = key},
                               {.pool = pool, .cancel = never});
    });
    v = transposed(svd.vt);
  }
  return py::make_tuple(array_of(svd.u), narrowed(svd.s), array_of(v), std::sqrt(svd.sums.delta));
}

double norm_of(const std::shared_ptr<StoredMatrix>& matrix, std::size_t threads) {
  const py::gil_scoped_release release;
  ThreadPool pool(threads);
  const CancelToken never;
  const StoredOperator a(matrix);
  const TileSums sums =
      of_unchanged(*matrix, [&] { return a.measure({.pool = pool, .cancel = never}); });
  require_finite(sums);
  return std::sqrt(sums.delta);
}

// Rows of the matrix, or its columns, scaled by `gain` and then to norm one, times `right`.
py::array_t<float> unit_lines_times_of(const std::shared_ptr<StoredMatrix>& matrix, bool columns,
                                       const Floats& gain, const Floats& right,
                                       std::size_t threads) {
  const MatrixView<const float> operand = matrix_view(right);
  const std::span<const float> scale(gain.data(), static_cast<std::size_t>(gain.size()));
  Matrix<float> out;
  {
    const py::gil_scoped_release release;
    ThreadPool pool(threads);
    const CancelToken never;
    const StoredOperator a(matrix);
    out = of_unchanged(*matrix, [&] {
      return unit_lines_times(a, columns ? Lines::columns : Lines::rows, scale, operand,
                              {.pool = pool, .cancel = never});
    });
  }
  return array_of(out);
}

// For each row of a, the rows of b with the largest inner products: these, and their numbers.
py::tuple best_products_of(const Floats& a, const Floats& b, std::size_t count,
                           std::size_t threads) {
  const MatrixView<const float> left = matrix_view(a);
  const MatrixView<const float> right = matrix_view(b);
  BestProducts found;
  {
    const py::gil_scoped_release release;
    ThreadPool pool(threads);
    const CancelToken never;
    found = best_products(left, right, count, {.pool = pool, .cancel = never});
  }
  return py::make_tuple(array_of(found.values), array_of(found.places));
}

}  // namespace

void register_subspaces(py::module_& module) {
  module.def("leading_subspaces", &subspaces_of, py::arg("matrix").none(false), py::arg("rank"),
             py::arg("power_iterations"), py::arg("key"), py::arg("threads"));
  module.def("frobenius_norm", &norm_of, py::arg("matrix").none(false), py::arg("threads"));
  module.def("unit_lines_times", &unit_lines_times_of, py::arg("matrix").none(false),
             py::arg("columns"), py::arg("gain"), py::arg("right"), py::arg("threads"));
  module.def("best_products", &best_products_of, py::arg("a"), py::arg("b"), py::arg("count"),
             py::arg("threads"));
}

}  // namespace loragraft::bindings
