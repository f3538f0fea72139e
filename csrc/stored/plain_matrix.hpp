#pragma once

#include "stored/stored_matrix.hpp"

namespace loragraft {

// Numbers that are the entries themselves. Integers and powers of two may be read, for others to
// scale, but are no weights.
class PlainMatrix final : public StoredMatrix {
 public:
  explicit PlainMatrix(StridedNumbers numbers);

  [[nodiscard]] const StridedNumbers& numbers() const { return numbers_; }

  void require_weights() const override;
  [[nodiscard]] bool by_columns() const override { return numbers_.by_columns(); }
  void read(std::size_t first, std::size_t count, const Target& out) const override;
  [[nodiscard]] const std::byte* in_place(std::size_t first, std::size_t count) const override;
  [[nodiscard]] bool same_bytes(const StoredMatrix& other,
                                const CancelToken& cancel) const override;
  [[nodiscard]] std::vector<FileRange> ranges() const override { return {numbers_.range()}; }
  [[nodiscard]] const std::string& path_at(std::size_t, std::size_t) const override {
    return numbers_.file().path();
  }

 private:
  StridedNumbers numbers_;
};

}  // namespace loragraft
