#pragma once

#include <memory>

#include "stored/stored_matrix.hpp"

namespace loragraft {

// The rows of several matrices: those of the first on top, or in turn, row i being row i / n of
// part i % n. Parts of different dtypes are decoded.
class StackedMatrix final : public StoredMatrix {
 public:
  using Parts = std::vector<std::shared_ptr<const StoredMatrix>>;
  enum class Order : bool { stacked, interleaved };

  StackedMatrix(Parts parts, Order order);

  [[nodiscard]] bool by_columns() const override;
  void read(std::size_t first, std::size_t count, const Target& out) const override;
  [[nodiscard]] const std::byte* in_place(std::size_t first, std::size_t count) const override;
  [[nodiscard]] bool same_bytes(const StoredMatrix& other,
                                const CancelToken& cancel) const override;
  [[nodiscard]] std::vector<FileRange> ranges() const override;
  [[nodiscard]] const std::string& path_at(std::size_t row, std::size_t col) const override;

 private:
  struct Place {
    std::size_t part;
    std::size_t row;
  };
  [[nodiscard]] Place place_of(std::size_t row) const;

  Parts parts_;
  Order order_;
};

}  // namespace loragraft
