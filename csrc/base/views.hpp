#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "base/checked.hpp"
#include "base/memory.hpp"

namespace loragraft {

// A row-major matrix somebody else owns; element (i, j) is data[i * ld + j].
template <class T>
struct MatrixView {
  T* data = nullptr;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t ld = 0;

  [[nodiscard]] T* row(std::size_t i) const { return data + i * ld; }
  operator MatrixView<const T>() const { return {data, rows, cols, ld}; }  // NOLINT: as span does
};

// Uninitialised memory aligned to a cache line.
template <class T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t size)
      : data_(static_cast<T*>(take_memory(checked_mul(size, sizeof(T)))), {size * sizeof(T)}),
        size_(size) {}

  [[nodiscard]] T* data() const { return data_.get(); }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::span<T> span() const { return {data_.get(), size_}; }
  T& operator[](std::size_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    std::size_t bytes = 0;
    void operator()(T* pointer) const { give_memory_back(pointer, bytes); }
  };
  std::unique_ptr<T, Free> data_;
  std::size_t size_ = 0;
};

// A row-major matrix that owns its memory, rows without padding.
template <class T>
class Matrix {
 public:
  Matrix() = default;
  Matrix(std::size_t rows, std::size_t cols)
      : buffer_(checked_mul(rows, cols)), rows_(rows), cols_(cols) {}

  [[nodiscard]] std::size_t rows() const { return rows_; }
  [[nodiscard]] std::size_t cols() const { return cols_; }
  [[nodiscard]] std::size_t size() const { return buffer_.size(); }
  [[nodiscard]] T* data() const { return buffer_.data(); }
  [[nodiscard]] T* row(std::size_t i) const { return buffer_.data() + i * cols_; }
  [[nodiscard]] MatrixView<T> view() const { return {buffer_.data(), rows_, cols_, cols_}; }
  void fill(T value) const {
    for (T& entry : buffer_.span()) entry = value;
  }

 private:
  AlignedBuffer<T> buffer_;
  std::size_t rows_ = 0;
  std::size_t cols_ = 0;
};

}  // namespace loragraft
