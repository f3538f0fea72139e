#include "bindings/register.hpp"

PYBIND11_MODULE(_core, module) {
  using namespace loragraft::bindings;
  module.doc() = "Kernels of loragraft; use them through loragraft.linalg and loragraft.native.";
  register_errors(module);
  register_info(module);
  register_io(module);
  register_stored(module);
  register_subspaces(module);
  register_linalg(module);
  register_exact(module);
  register_batch(module);
}
