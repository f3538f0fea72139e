#include <pybind11/stl.h>

#include <algorithm>

#include "batch/batch.hpp"
#include "bindings/arrays.hpp"
#include "bindings/register.hpp"

namespace loragraft::bindings {
namespace {

// Destruction waits for the workers; other threads of Python may go on meanwhile.
struct DeleteWithoutGil {
  void operator()(Batch* batch) const {
    const py::gil_scoped_release release;
    std::default_delete<Batch>()(batch);
  }
};
using BatchHolder = std::unique_ptr<Batch, DeleteWithoutGil>;

std::optional<DType> factor_dtype(const std::string& code) {
  if (code == "auto") return std::nullopt;
  return dtype_from_code(code.c_str());
}

Arithmetic arithmetic_named(const std::string& name) {
  if (name == "auto") return Arithmetic::automatic;
  if (name == "floats") return Arithmetic::floats;
  throw Error(Errc::invalid_argument, "arithmetic " + name + ": expected auto or floats");
}

BatchHolder make_batch(std::vector<ModuleTask> tasks, std::size_t oversampling,
                       std::optional<std::size_t> power_iterations, const std::string& dtype,
                       std::size_t threads, const std::string& arithmetic,
                       std::optional<std::size_t> workspace, bool nested) {
  ModuleOptions options{.oversampling = oversampling,
                        .power_iterations = power_iterations,
                        .dtype = factor_dtype(dtype),
                        .arithmetic = arithmetic_named(arithmetic),
                        .nested = nested};
  if (workspace) options.workspace = *workspace;
  return BatchHolder(std::make_unique<Batch>(std::move(tasks), options, threads).release());
}

py::object next(Batch& batch, double timeout) {
  std::optional<Batch::Completed> completed;
  {
    const py::gil_scoped_release release;
    completed = batch.next(std::chrono::milliseconds(static_cast<int>(timeout * 1000.0)));
  }
  if (!completed) return py::none();
  return py::make_tuple(completed->index, py::cast(std::move(completed->result)));
}

py::bytes to_bytes(const std::vector<std::byte>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size()};
}

Matrix<float> copy_of(const Floats& array) {
  const MatrixView<const float> values = matrix_view(array);
  Matrix<float> out(values.rows, values.cols);
  std::copy_n(array.data(), out.size(), out.data());
  return out;
}

// A task that searches factors inside the rounding cells from lora_b (m, r) lora_a (r, n), the
// scaling multiplied in.
ModuleTask recovery_task(std::string name, std::shared_ptr<StoredMatrix> base,
                         std::shared_ptr<StoredMatrix> tuned, const Floats& lora_a,
                         const Floats& lora_b, const std::string& dtype, double scaling,
                         double slack, std::size_t rounds) {
  RecoveryStart start{.left = copy_of(lora_b),
                      .right = copy_of(lora_a),
                      .encoding = encoding_from_code(dtype.c_str()),
                      .slack = slack,
                      .options = {.rounds = rounds}};
  return {.name = std::move(name),
          .base = std::move(base),
          .tuned = std::move(tuned),
          .rank = start.left.cols(),
          .scaling = scaling,
          .start = std::make_shared<const RecoveryStart>(std::move(start))};
}

void register_task(py::module_& module) {
  py::class_<ModuleTask>(module, "ModuleTask")
      .def(py::init([](std::string name, std::shared_ptr<StoredMatrix> base,
                       std::shared_ptr<StoredMatrix> tuned, std::size_t rank, std::uint64_t key,
                       double scaling) {
             return ModuleTask{.name = std::move(name),
                               .base = std::move(base),
                               .tuned = std::move(tuned),
                               .rank = rank,
                               .key = key,
                               .scaling = scaling};
           }),
           py::arg("name"), py::arg("base").none(false), py::arg("tuned").none(false),
           py::arg("rank"), py::arg("key"), py::arg("scaling"))
      .def_static("recovery", &recovery_task, py::arg("name"), py::arg("base").none(false),
                  py::arg("tuned").none(false), py::arg("lora_a"), py::arg("lora_b"),
                  py::arg("dtype"), py::kw_only(), py::arg("scaling"), py::arg("slack"),
                  py::arg("rounds"));
}

void register_recovery(py::module_& module) {
  py::class_<Recovery>(module, "Recovery")
      .def_property_readonly("end", [](const Recovery& r) { return end_name(r.end); })
      .def_readonly("rounds", &Recovery::rounds)
      .def_readonly("outside", &Recovery::outside)
      .def_readonly("exact", &Recovery::exact)
      .def_readonly("changed", &Recovery::changed);
}

void register_result(py::module_& module) {
  py::class_<ModuleResult>(module, "ModuleResult")
      .def_readonly("unchanged", &ModuleResult::unchanged)
      .def_readonly("delta_square", &ModuleResult::delta_square)
      .def_readonly("base_square", &ModuleResult::base_square)
      .def_readonly("rounding_square", &ModuleResult::rounding_square)
      .def_readonly("singular_values", &ModuleResult::singular_values)
      .def_readonly("further_values", &ModuleResult::further_values)
      .def_readonly("optimal_square", &ModuleResult::optimal_square)
      .def_readonly("residual_square", &ModuleResult::residual_square)
      .def_readonly("optimal_squares", &ModuleResult::optimal_squares)
      .def_readonly("residual_squares", &ModuleResult::residual_squares)
      .def_readonly("passes", &ModuleResult::passes)
      .def_readonly("exact", &ModuleResult::exact)
      .def_readonly("seconds", &ModuleResult::seconds)
      .def_readonly("recovery", &ModuleResult::recovery)
      .def_property_readonly("rank", [](const ModuleResult& r) { return r.factors.rank; })
      .def_property_readonly("dtype",
                             [](const ModuleResult& r) { return dtype_code(r.factors.dtype); })
      .def_property_readonly("lora_a",
                             [](const ModuleResult& r) { return to_bytes(r.factors.lora_a); })
      .def_property_readonly("lora_b",
                             [](const ModuleResult& r) { return to_bytes(r.factors.lora_b); });
}

}  // namespace

void register_batch(py::module_& module) {
  register_task(module);
  register_recovery(module);
  register_result(module);
  py::class_<Batch, BatchHolder>(module, "Batch")
      .def(py::init(&make_batch), py::arg("tasks"), py::arg("oversampling"),
           py::arg("power_iterations"), py::arg("dtype"), py::arg("threads"),
           py::arg("arithmetic") = "auto", py::arg("workspace") = py::none(),
           py::arg("nested") = false)
      .def("next", &next, py::arg("timeout"))
      .def_property_readonly("exhausted", &Batch::exhausted)
      .def("cancel", &Batch::cancel)
      .def("close", [](Batch& batch) {
        const py::gil_scoped_release release;
        batch.close();
      });
}

}  // namespace loragraft::bindings
