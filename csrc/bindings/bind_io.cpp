#include <memory>

#include "base/error.hpp"
#include "bindings/register.hpp"
#include "io/mapped_file.hpp"

namespace loragraft::bindings {
namespace {

namespace py = pybind11;

IoMode io_mode(const std::string& name) {
  if (name == "auto") return IoMode::automatic;
  if (name == "mmap") return IoMode::mmap;
  if (name == "pread") return IoMode::pread;
  throw Error(Errc::invalid_argument, "io mode '" + name + "': expected auto, mmap or pread");
}

}  // namespace

void register_io(py::module_& module) {
  py::class_<MappedFile, std::shared_ptr<MappedFile>>(module, "MappedFile")
      .def(py::init([](const std::string& path, const std::string& io) {
             return std::make_shared<MappedFile>(path, io_mode(io));
           }),
           py::arg("path"), py::arg("io") = "auto")
      .def_property_readonly("size", &MappedFile::size)
      .def_property_readonly("mapped", &MappedFile::mapped);
}

}  // namespace loragraft::bindings
