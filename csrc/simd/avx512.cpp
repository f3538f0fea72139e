// Compiled with -mavx512f -mavx512bw -mavx512dq -mavx512vl.
#include "simd/avx512_vec.hpp"
#include "simd/kernels_impl.hpp"

namespace loragraft {
namespace {

struct Bytes : Bytes512 {
  static constexpr float kLimit = 64.0F;

  static Ints dot(Ints sum, Quad a, Quad b) {
    const __m512i pairs = _mm512_maddubs_epi16(a.value, b.value);
    return {_mm512_add_epi32(sum.value, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
  }
};

}  // namespace
}  // namespace loragraft

#include "simd/bytes_impl.hpp"
#include "simd/cells_impl.hpp"

namespace loragraft {

const Kernels& kernels_avx512() {
  static constexpr ByteKernels kBytes = make_byte_kernels();
  static constexpr CellKernels kCells = make_cell_kernels();
  static constexpr Kernels kTable = make_kernels("avx512", &kBytes, &kCells);
  return kTable;
}

}  // namespace loragraft
