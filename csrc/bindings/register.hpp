#pragma once

#include <pybind11/pybind11.h>

namespace loragraft::bindings {

void register_errors(pybind11::module_& module);
void register_info(pybind11::module_& module);
void register_io(pybind11::module_& module);
void register_stored(pybind11::module_& module);
void register_subspaces(pybind11::module_& module);
void register_linalg(pybind11::module_& module);
void register_exact(pybind11::module_& module);
void register_batch(pybind11::module_& module);

}  // namespace loragraft::bindings
