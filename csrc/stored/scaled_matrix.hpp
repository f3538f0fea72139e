#pragma once

#include <memory>

#include "stored/stored_matrix.hpp"

namespace loragraft {

// Codes times scales, one scale for each block of rows and columns: entry (i, j) is
// factor * codes(i, j) * scales(i / block_rows, j / block_cols). The last blocks may be smaller.
class ScaledMatrix final : public StoredMatrix {
 public:
  struct Block {
    std::size_t rows;
    std::size_t cols;
    bool operator==(const Block&) const = default;
  };

  // One code a number of `codes`.
  ScaledMatrix(const StridedNumbers& codes, StridedNumbers scales, Block block, double factor);

  [[nodiscard]] bool by_columns() const override { return codes_.by_columns(); }
  void read(std::size_t first, std::size_t count, const Target& out) const override;
  [[nodiscard]] const std::byte* in_place(std::size_t, std::size_t) const override {
    return nullptr;
  }
  [[nodiscard]] bool same_bytes(const StoredMatrix& other,
                                const CancelToken& cancel) const override;
  [[nodiscard]] std::vector<FileRange> ranges() const override {
    return {codes_.range(), scales_.range()};
  }
  [[nodiscard]] const std::string& path_at(std::size_t row, std::size_t col) const override;

  // MXFP4 (OCP Microscaling Formats 1.0): 32 numbers of 4 bits in a row share a power of two. Row i
  // of the matrix is row first_row + row_step * i of what the files hold from the offsets on.
  struct Microscaled {
    std::shared_ptr<const MappedFile> blocks_file;
    std::size_t blocks_offset = 0;
    std::shared_ptr<const MappedFile> scales_file;
    std::size_t scales_offset = 0;
    std::size_t rows = 0;
    std::size_t cols = 0;
    std::size_t first_row = 0;
    std::size_t row_step = 1;
  };
  static std::unique_ptr<ScaledMatrix> microscaled(const Microscaled& what);

 private:
  ScaledMatrix(StridedNumbers codes, std::size_t cols, Encoding encoding, StridedNumbers scales,
               Block block, double factor);
  [[nodiscard]] Matrix<float> read_scales(std::size_t first, std::size_t count) const;
  void spread(const float* scales, float* out) const;

  StridedNumbers codes_;  // whole bytes
  Encoding encoding_;     // of the codes in them
  StridedNumbers scales_;
  Block block_;
  double factor_;
};

}  // namespace loragraft
