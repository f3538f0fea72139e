#pragma once

#include "stored/stored_matrix.hpp"

namespace loragraft {

// Q8_0 of ggml: 32 numbers of a row share a scale in half precision, which stands before them:
// entry (i, j) is d(i, j / 32) * q(i, j), q of 8 bits with a sign.
class Q8Matrix final : public StoredMatrix {
 public:
  static constexpr std::size_t kBlock = 32;
  static constexpr std::size_t kBlockBytes = 34;

  // Row i of the matrix is row first_row + row_step * i of what the file holds from `offset` on.
  struct Rows {
    std::size_t rows = 0;
    std::size_t cols = 0;
    std::size_t first_row = 0;
    std::size_t row_step = 1;
  };

  Q8Matrix(std::shared_ptr<const MappedFile> file, std::size_t offset, const Rows& what);

  [[nodiscard]] bool by_columns() const override { return false; }
  void read(std::size_t first, std::size_t count, const Target& out) const override;
  [[nodiscard]] const std::byte* in_place(std::size_t, std::size_t) const override {
    return nullptr;
  }
  [[nodiscard]] bool same_bytes(const StoredMatrix& other,
                                const CancelToken& cancel) const override;
  [[nodiscard]] std::vector<FileRange> ranges() const override { return {blocks_.range()}; }
  [[nodiscard]] const std::string& path_at(std::size_t, std::size_t) const override {
    return blocks_.file().path();
  }

 private:
  StridedNumbers blocks_;  // as bytes
};

}  // namespace loragraft
