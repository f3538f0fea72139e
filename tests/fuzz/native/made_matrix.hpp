#pragma once

#include <memory>
#include <vector>

#include "input.hpp"
#include "stored/stored_matrix.hpp"

namespace loragraft::fuzz {

// A stored matrix, and its entries worked out one by one from the bytes of the file.
struct Made {
  std::shared_ptr<const StoredMatrix> matrix;
  std::vector<float> entries;
};

// Any matrix: numbers with any strides and offset, codes with scales, stacks of them; with so many
// rows and columns that the entries can be worked out. Throws Error where there is none.
Made make_matrix(Input& input, const MemoryFile& memory,
                 const std::shared_ptr<const MappedFile>& file, int depth);

}  // namespace loragraft::fuzz
