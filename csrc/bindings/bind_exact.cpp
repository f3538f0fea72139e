#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/arrays.hpp"
#include "bindings/register.hpp"
#include "exact/exact_factors.hpp"

namespace loragraft::bindings {
namespace {

using Holder = std::shared_ptr<StoredMatrix>;

// The first `cols` columns.
Floats array_of(const Matrix<float>& matrix, std::size_t cols) {
  Floats out({matrix.rows(), cols});
  for (std::size_t i = 0; i < matrix.rows(); ++i) {
    std::copy_n(matrix.row(i), cols, out.mutable_data() + i * cols);
  }
  return out;
}

CellMatrix cell_matrix(const Holder& base, const Holder& tuned, const std::string& dtype,
                       double stretch, double slack) {
  return {base,
          tuned,
          {.encoding = encoding_from_code(dtype.c_str()), .stretch = stretch, .slack = slack}};
}

// What `body` computes on threads of its own, without the GIL.
template <class F>
auto run_with(std::size_t threads, const F& body) {
  const py::gil_scoped_release release;
  ThreadPool pool(threads);
  const CancelToken never;
  return body(Run{.pool = pool, .cancel = never});
}

ExactFactors find_factors(const Holder& base, const Holder& tuned, const Floats& lora_a,
                          const Floats& lora_b, const std::string& dtype, std::size_t rounds,
                          std::size_t patience, std::size_t memory, std::size_t swaps,
                          std::optional<double> stretch, double slack, std::size_t threads) {
  const MatrixView<const float> left = matrix_view(lora_b);
  const MatrixView<const float> right = matrix_view(lora_a);
  const double aim = stretch.value_or(stretch_for(left.rows, right.cols, left.cols));
  const CellMatrix cells = cell_matrix(base, tuned, dtype, aim, slack);
  const ExactOptions options{
      .rounds = rounds, .memory = memory, .patience = patience, .swaps = swaps};
  return run_with(threads,
                  [&](const Run& run) { return exact_factors(cells, left, right, options, run); });
}

std::size_t count_exact(const Holder& base, const Holder& tuned, const Floats& lora_a,
                        const Floats& lora_b, const std::string& dtype, std::size_t threads) {
  const CellMatrix cells = cell_matrix(base, tuned, dtype, 1.0, 0.0);
  const PaddedFactors factors = pad_factors(cells, matrix_view(lora_b), matrix_view(lora_a));
  return run_with(threads, [&](const Run& run) { return cells.count_exact(factors.view(), run); });
}

// (square, violations, R A^T (m, r), R^T B (n, r)).
py::tuple cell_residual(const Holder& base, const Holder& tuned, const Floats& lora_a,
                        const Floats& lora_b, const std::string& dtype, double stretch,
                        double slack, std::size_t threads) {
  const CellMatrix cells = cell_matrix(base, tuned, dtype, stretch, slack);
  const PaddedFactors factors = pad_factors(cells, matrix_view(lora_b), matrix_view(lora_a));
  const Matrix<float> left(cells.rows(), factors.left.cols());
  const Matrix<float> right(cells.cols(), factors.left.cols());
  const HingeSums sums = run_with(threads, [&](const Run& run) {
    return cells.evaluate(factors.view(), {.left = left.view(), .right = right.view()}, run);
  });
  return py::make_tuple(sums.square, sums.violations, array_of(left, factors.rank),
                        array_of(right, factors.rank));
}

// (low, high, low_closed, high_closed) of every value.
py::tuple cells_of(const Floats& values, const std::string& dtype, bool saturated) {
  const CellFormat format = cell_format(encoding_from_code(dtype.c_str()));
  const auto count = static_cast<std::size_t>(values.size());
  py::array_t<double> low(values.size());
  py::array_t<double> high(values.size());
  py::array_t<bool> low_closed(values.size());
  py::array_t<bool> high_closed(values.size());
  for (std::size_t i = 0; i < count; ++i) {
    const Cell cell =
        cell_of(format, values.data()[i], saturated ? Beyond::saturated : Beyond::lost);
    low.mutable_data()[i] = cell.low;
    high.mutable_data()[i] = cell.high;
    low_closed.mutable_data()[i] = cell.low_closed;
    high_closed.mutable_data()[i] = cell.high_closed;
  }
  return py::make_tuple(low, high, low_closed, high_closed);
}

void register_result(py::module_& module) {
  py::class_<ExactFactors>(module, "ExactFactors")
      .def_property_readonly(
          "lora_a", [](const ExactFactors& f) { return array_of(f.right, f.right.cols()); })
      .def_property_readonly("lora_b",
                             [](const ExactFactors& f) { return array_of(f.left, f.left.cols()); })
      .def_property_readonly("end", [](const ExactFactors& f) { return end_name(f.end); })
      .def_readonly("violations", &ExactFactors::violations)
      .def_readonly("exact_count", &ExactFactors::exact)
      .def_property_readonly("history", [](const ExactFactors& f) {
        std::vector<std::pair<std::size_t, double>> rounds;
        rounds.reserve(f.history.size());
        for (const HingeSums& sums : f.history) rounds.emplace_back(sums.violations, sums.square);
        return rounds;
      });
}

}  // namespace

void register_exact(py::module_& module) {
  register_result(module);
  module.def("exact_factors", &find_factors, py::arg("base").none(false),
             py::arg("tuned").none(false), py::arg("lora_a"), py::arg("lora_b"), py::arg("dtype"),
             py::kw_only(), py::arg("rounds") = 1000, py::arg("patience") = 24,
             py::arg("memory") = 8, py::arg("swaps") = 3, py::arg("stretch") = py::none(),
             py::arg("slack") = 0.0, py::arg("threads") = 1);
  module.def("count_exact", &count_exact, py::arg("base").none(false), py::arg("tuned").none(false),
             py::arg("lora_a"), py::arg("lora_b"), py::arg("dtype"), py::kw_only(),
             py::arg("threads") = 1);
  module.def("cell_residual", &cell_residual, py::arg("base").none(false),
             py::arg("tuned").none(false), py::arg("lora_a"), py::arg("lora_b"), py::arg("dtype"),
             py::kw_only(), py::arg("stretch") = 1.0, py::arg("slack") = 0.0,
             py::arg("threads") = 1);
  module.def("rounding_cells", &cells_of, py::arg("values"), py::arg("dtype"), py::kw_only(),
             py::arg("saturated") = false);
}

}  // namespace loragraft::bindings
