#include <pybind11/stl.h>

#include <algorithm>
#include <memory>

#include "bindings/register.hpp"
#include "stored/plain_matrix.hpp"
#include "stored/q8_matrix.hpp"
#include "stored/scaled_matrix.hpp"
#include "stored/stacked_matrix.hpp"

namespace loragraft::bindings {
namespace {

namespace py = pybind11;

// Python holds matrices of all kinds as one class.
using Holder = std::shared_ptr<StoredMatrix>;

Holder plain(std::shared_ptr<MappedFile> file, std::size_t offset, const std::string& dtype,
             std::size_t rows, std::size_t cols, std::optional<std::size_t> row_stride,
             std::optional<std::size_t> col_stride) {
  const Encoding encoding = encoding_from_code(dtype.c_str());
  const Geometry geometry{rows, cols, row_stride.value_or(cols), col_stride.value_or(1)};
  return std::make_shared<PlainMatrix>(StridedNumbers(std::move(file), offset, encoding, geometry));
}

Holder stack(const std::vector<Holder>& parts, StackedMatrix::Order order) {
  if (std::ranges::find(parts, nullptr) != parts.end()) {
    throw Error(Errc::invalid_argument, "a stack of matrices: one is None");
  }
  return std::make_shared<StackedMatrix>(StackedMatrix::Parts(parts.begin(), parts.end()), order);
}

const StridedNumbers& numbers_of(const StoredMatrix& matrix) {
  const auto* const plain = dynamic_cast<const PlainMatrix*>(&matrix);
  if (plain != nullptr) return plain->numbers();
  throw Error(Errc::invalid_argument, "codes and scales: expected matrices of single tensors");
}

Holder scaled(const StoredMatrix& codes, const StoredMatrix& scales, std::size_t block_rows,
              std::size_t block_cols, double factor) {
  return std::make_shared<ScaledMatrix>(numbers_of(codes), numbers_of(scales),
                                        ScaledMatrix::Block{block_rows, block_cols}, factor);
}

Holder microscaled(std::shared_ptr<MappedFile> blocks_file, std::size_t blocks_offset,
                   std::shared_ptr<MappedFile> scales_file, std::size_t scales_offset,
                   std::size_t rows, std::size_t cols, std::size_t first_row,
                   std::size_t row_step) {
  return ScaledMatrix::microscaled({.blocks_file = std::move(blocks_file),
                                    .blocks_offset = blocks_offset,
                                    .scales_file = std::move(scales_file),
                                    .scales_offset = scales_offset,
                                    .rows = rows,
                                    .cols = cols,
                                    .first_row = first_row,
                                    .row_step = row_step});
}

Holder q8(std::shared_ptr<MappedFile> file, std::size_t offset, std::size_t rows, std::size_t cols,
          std::size_t first_row, std::size_t row_step) {
  return std::make_shared<Q8Matrix>(
      std::move(file), offset,
      Q8Matrix::Rows{.rows = rows, .cols = cols, .first_row = first_row, .row_step = row_step});
}

}  // namespace

void register_stored(py::module_& module) {
  py::class_<StoredMatrix, Holder>(module, "StoredMatrix")
      .def(py::init(&plain), py::arg("file").none(false), py::arg("offset"), py::arg("dtype"),
           py::arg("rows"), py::arg("cols"), py::arg("row_stride") = py::none(),
           py::arg("col_stride") = py::none())
      .def_static(
          "stacked",
          [](const std::vector<Holder>& parts) {
            return stack(parts, StackedMatrix::Order::stacked);
          },
          py::arg("parts"))
      .def_static(
          "interleaved",
          [](const std::vector<Holder>& parts) {
            return stack(parts, StackedMatrix::Order::interleaved);
          },
          py::arg("parts"))
      .def_static("scaled", &scaled, py::arg("codes").none(false), py::arg("scales").none(false),
                  py::arg("block_rows"), py::arg("block_cols"), py::arg("factor") = 1.0)
      .def_static("microscaled", &microscaled, py::arg("blocks_file").none(false),
                  py::arg("blocks_offset"), py::arg("scales_file").none(false),
                  py::arg("scales_offset"), py::arg("rows"), py::arg("cols"),
                  py::arg("first_row") = 0, py::arg("row_step") = 1)
      .def_static("q8", &q8, py::arg("file").none(false), py::arg("offset"), py::arg("rows"),
                  py::arg("cols"), py::arg("first_row") = 0, py::arg("row_step") = 1)
      .def_property_readonly("rows", &StoredMatrix::rows)
      .def_property_readonly("cols", &StoredMatrix::cols);
}

}  // namespace loragraft::bindings
