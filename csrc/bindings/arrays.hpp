#pragma once

#include <pybind11/numpy.h>

#include <initializer_list>
#include <utility>
#include <vector>

#include "base/views.hpp"

namespace loragraft::bindings {

namespace py = pybind11;

// Python hands over C-contiguous float32 arrays with a leading batch dimension: (batch, m, n).
using FloatStack = py::array_t<float, py::array::c_style>;

inline std::size_t extent(const FloatStack& stack, int axis) {
  if (stack.ndim() != 3) throw Error(Errc::invalid_argument, "expected arrays of 3 dimensions");
  return static_cast<std::size_t>(stack.shape(axis));
}

// The number of matrices in each of the stacks, which must be one for all.
inline std::size_t common_batch(std::initializer_list<const FloatStack*> stacks) {
  const std::size_t batch = extent(**stacks.begin(), 0);
  for (const FloatStack* stack : stacks) {
    if (extent(*stack, 0) != batch) {
      throw Error(Errc::invalid_argument, "stacks hold different numbers of matrices");
    }
  }
  return batch;
}

inline MatrixView<const float> matrix_of(const FloatStack& stack, std::size_t index) {
  const std::size_t rows = extent(stack, 1);
  const std::size_t cols = extent(stack, 2);
  return {stack.data() + index * rows * cols, rows, cols, cols};
}

inline MatrixView<float> matrix_of(FloatStack& stack, std::size_t index) {
  const std::size_t rows = extent(stack, 1);
  const std::size_t cols = extent(stack, 2);
  return {stack.mutable_data() + index * rows * cols, rows, cols, cols};
}

// Every matrix of a stack; taken before the GIL is released.
inline std::vector<MatrixView<float>> matrices_of(FloatStack& stack) {
  std::vector<MatrixView<float>> matrices;
  matrices.reserve(extent(stack, 0));
  for (std::size_t i = 0; i < extent(stack, 0); ++i) matrices.push_back(matrix_of(stack, i));
  return matrices;
}

// Whatever Python hands over, as float32.
using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

inline MatrixView<const float> matrix_view(const Floats& array) {
  if (array.ndim() != 2) throw Error(Errc::invalid_argument, "expected arrays of 2 dimensions");
  const auto cols = static_cast<std::size_t>(array.shape(1));
  return {array.data(), static_cast<std::size_t>(array.shape(0)), cols, cols};
}

inline FloatStack make_stack(std::size_t batch, std::size_t rows, std::size_t cols) {
  return FloatStack({batch, rows, cols});
}

// A 1-D array that takes over a vector's memory.
template <class T>
py::array_t<T> array_from(std::vector<T>&& values) {
  auto owner = std::make_unique<std::vector<T>>(std::move(values));
  std::vector<T>& kept = *owner;
  const py::capsule capsule(owner.get(), [](void* p) {
    std::unique_ptr<std::vector<T>>(static_cast<std::vector<T>*>(p)).reset();
  });
  static_cast<void>(owner.release());  // the capsule owns it from here
  return py::array_t<T>(static_cast<py::ssize_t>(kept.size()), kept.data(), capsule);
}

}  // namespace loragraft::bindings
