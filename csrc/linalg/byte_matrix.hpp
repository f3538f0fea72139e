#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "linalg/byte_operand.hpp"
#include "linalg/operators.hpp"

namespace loragraft {

// How much of the numbers a product uses: the high bytes of both sides, good to about 1 % of the
// root mean square, or all bytes: as good as single precision, up to the rounding of A, 4e-5 of the
// root mean square and far less for differences of 16-bit numbers. See simd/bytes.hpp.
enum class Precision : std::uint8_t { coarse, fine };

// A matrix in bytes, split once from the entries that an operator forms. Rows that do not fit into
// the space given are formed again whenever they are needed; the results are the same.
class ByteMatrix {
 public:
  // Space in which every row finds room.
  [[nodiscard]] static std::size_t bytes_for(const LinearOperator& source);

  // `source` and `space` must outlive this.
  ByteMatrix(const LinearOperator& source, std::span<std::byte> space);

  // Forms, measures and splits the matrix; to be called before all else.
  TileSums form(const Run& run);

  // y (m, l) = A x, x replaced by what its bytes stand for: only the rounding of A is left in the
  // product.
  void times(MatrixView<float> x, MatrixView<float> y, Precision precision, const Run& run);

  // z (n, l) = A^T q, q (m, l), likewise.
  void transpose_times(MatrixView<float> q, MatrixView<float> z, Precision precision,
                       const Run& run);

  // Squared Frobenius norm of what a precision does not see of the entries; expected, if coarse.
  [[nodiscard]] double error_square(Precision precision) const;

  // Number of rows that such an error is spread over: (sum u^2)^2 / sum u^4 for the rows' units u.
  [[nodiscard]] double effective_rows() const;

 private:
  struct Rows;  // a run of rows and where their bytes are
  [[nodiscard]] Rows chunk_at(std::size_t index) const;
  template <class F>
  void for_each_band(F visit) const;
  void form_band(std::size_t first, std::size_t last, const Run& run) const;
  float split_row(const Rows& rows, std::size_t row, float* entries) const;
  void multiply(const Rows& rows, const ByteOperand& x, MatrixView<float> y,
                Precision precision) const;
  void multiply_back(std::size_t column, std::size_t first, std::size_t last, const ByteOperand& q,
                     MatrixView<float> z, Precision precision) const;
  void multiply_back(const Rows& rows, std::size_t column, const ByteOperand& q,
                     MatrixView<float> sum, Precision precision) const;

  const LinearOperator& source_;
  std::size_t ld_;
  std::size_t chunks_;
  std::size_t stored_;  // chunks that keep their bytes
  std::size_t window_;  // chunks whose bytes are there for the time being
  AlignedBuffer<std::byte> own_space_;
  std::uint8_t* bytes_;
  AlignedBuffer<float> units_;   // (m): see simd/bytes.hpp
  AlignedBuffer<float> errors_;  // (m): squared, of both bytes, in squared units
};

}  // namespace loragraft
