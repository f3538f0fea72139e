#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>

#include "bindings/arrays.hpp"
#include "bindings/register.hpp"
#include "linalg/leading_subspaces.hpp"
#include "linalg/triplets.hpp"

namespace loragraft::bindings {
namespace {

py::array_t<float> array_of(const Matrix<float>& values) {
  py::array_t<float> out({values.rows(), values.cols()});
  std::copy_n(values.data(), values.size(), out.mutable_data());
  return out;
}

py::array_t<float> narrowed(const std::vector<double>& values) {
  py::array_t<float> out(static_cast<py::ssize_t>(values.size()));
  std::ranges::transform(values, out.mutable_data(),
                         [](double x) { return static_cast<float>(x); });
  return out;
}

// U (m, k), s (k), V (n, k) and the Frobenius norm of the whole.
py::tuple subspaces_of(std::shared_ptr<StoredMatrix> matrix, std::size_t rank,
                       std::optional<std::size_t> power_iterations, std::uint64_t key,
                       std::size_t threads) {
  TruncatedSvd svd;
  Matrix<float> v;
  {
    const py::gil_scoped_release release;
    ThreadPool pool(threads);
    const CancelToken never;
    StoredOperator a(std::move(matrix));
    svd = leading_subspaces(a, {.rank = rank, .power_iterations = power_iterations, .key = key},
                            {.pool = pool, .cancel = never});
    v = transposed(svd.vt);
  }
  return py::make_tuple(array_of(svd.u), narrowed(svd.s), array_of(v), std::sqrt(svd.sums.delta));
}

double norm_of(std::shared_ptr<StoredMatrix> matrix, std::size_t threads) {
  const py::gil_scoped_release release;
  ThreadPool pool(threads);
  const CancelToken never;
  const StoredOperator a(std::move(matrix));
  const TileSums sums = a.measure({.pool = pool, .cancel = never});
  require_finite(sums);
  return std::sqrt(sums.delta);
}

}  // namespace

void register_subspaces(py::module_& module) {
  module.def("leading_subspaces", &subspaces_of, py::arg("matrix").none(false), py::arg("rank"),
             py::arg("power_iterations"), py::arg("key"), py::arg("threads"));
  module.def("frobenius_norm", &norm_of, py::arg("matrix").none(false), py::arg("threads"));
}

}  // namespace loragraft::bindings
