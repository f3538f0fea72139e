#include "base/error.hpp"
#include "bindings/register.hpp"

namespace loragraft::bindings {
namespace {

namespace py = pybind11;

const char* python_name(Errc code) {
  switch (code) {
    case Errc::invalid_argument:
    case Errc::unsupported:
      return "UsageError";
    case Errc::format:
      return "FormatError";
    case Errc::non_finite:
      return "NonFiniteError";
    case Errc::cancelled:
      return "StoppedError";
    case Errc::numeric:
      return "LoragraftError";
  }
  return "LoragraftError";
}

}  // namespace

void register_errors(py::module_&) {
  // NOLINTNEXTLINE(performance-unnecessary-value-param): pybind11 prescribes the signature
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const Error& error) {
      const py::object type =
          py::module_::import("loragraft.errors").attr(python_name(error.code()));
      py::set_error(type, error.what());
    }
  });
}

}  // namespace loragraft::bindings
