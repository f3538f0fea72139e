#include <pybind11/stl.h>

#include "base/philox.hpp"
#include "bindings/register.hpp"
#include "linalg/blas.hpp"
#include "simd/isa.hpp"

namespace loragraft::bindings {

void register_info(pybind11::module_& module) {
  module.def("isa", [] { return std::string(kernels().name); });
  module.def("available_isas", &available_isas);
  module.def("blas_description", &blas_description);
  module.def("philox_block", [](std::uint64_t key, std::uint64_t low, std::uint64_t high) {
    return Philox{key}.block(low, high);
  });
}

}  // namespace loragraft::bindings
