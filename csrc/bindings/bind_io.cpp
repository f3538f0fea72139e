#include <memory>

#include "bindings/register.hpp"
#include "linalg/operators.hpp"

namespace loragraft::bindings {
namespace {

namespace py = pybind11;

IoMode io_mode(const std::string& name) {
  if (name == "auto") return IoMode::automatic;
  if (name == "mmap") return IoMode::mmap;
  if (name == "pread") return IoMode::pread;
  throw Error(Errc::invalid_argument, "io mode '" + name + "': expected auto, mmap or pread");
}

StoredMatrix stored_matrix(std::shared_ptr<MappedFile> file, std::size_t offset,
                           const std::string& dtype, std::size_t rows, std::size_t cols) {
  StoredMatrix matrix{.file = std::move(file),
                      .offset = offset,
                      .dtype = dtype_from_code(dtype.c_str()),
                      .rows = rows,
                      .cols = cols};
  if (checked_add(offset, matrix.nbytes()) > matrix.file->size()) {
    throw Error(Errc::format, matrix.file->path() + ": a tensor reaches beyond the file's end");
  }
  return matrix;
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
  py::class_<StoredMatrix>(module, "StoredMatrix")
      .def(py::init(&stored_matrix), py::arg("file"), py::arg("offset"), py::arg("dtype"),
           py::arg("rows"), py::arg("cols"))
      .def_readonly("rows", &StoredMatrix::rows)
      .def_readonly("cols", &StoredMatrix::cols);
}

}  // namespace loragraft::bindings
