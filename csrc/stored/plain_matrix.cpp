#include "stored/plain_matrix.hpp"

#include <utility>

#include "stored/decoding.hpp"

namespace loragraft {
namespace {

DType opened_as(Encoding encoding) {
  return is_dtype(encoding) ? static_cast<DType>(encoding) : DType::f32;
}

}  // namespace

PlainMatrix::PlainMatrix(StridedNumbers numbers)
    : StoredMatrix(numbers.rows(), numbers.cols(), opened_as(numbers.encoding()),
                   !is_dtype(numbers.encoding())),
      numbers_(std::move(numbers)) {}

void PlainMatrix::require_weights() const {
  const Encoding encoding = numbers_.encoding();
  if (encoding < Encoding::i8) return;
  throw Error(Errc::invalid_argument, std::string("numbers of dtype ") + encoding_code(encoding) +
                                          " are no weights without a scale");
}

const std::byte* PlainMatrix::in_place(std::size_t first, std::size_t count) const {
  return decoded() ? nullptr : numbers_.in_place(first, count);
}

void PlainMatrix::read(std::size_t first, std::size_t count, const Target& out) const {
  if (!decoded() && out.dtype == dtype() && out.steps == nullptr) {
    return numbers_.gather(first, count, out.data, out.ld);
  }
  AlignedBuffer<std::byte> scratch;
  const std::byte* const codes = numbers_.open(first, count, scratch);
  for (std::size_t i = 0; i < count; ++i) {
    decode(numbers_.encoding(), codes + bytes_of(numbers_.encoding(), i * cols()), nullptr,
           reinterpret_cast<float*>(out.data + i * out.ld), cols(), out.steps);
  }
}

bool PlainMatrix::same_bytes(const StoredMatrix& other, const CancelToken& cancel) const {
  const auto* const plain = dynamic_cast<const PlainMatrix*>(&other);
  return plain != nullptr ? numbers_.same(plain->numbers_, cancel)
                          : StoredMatrix::same_bytes(other, cancel);
}

}  // namespace loragraft
