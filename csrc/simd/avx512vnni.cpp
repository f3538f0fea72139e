// Compiled with the flags of avx512.cpp and -mavx512vnni.
#include "simd/avx512_vec.hpp"
#include "simd/kernels_impl.hpp"

namespace loragraft {
namespace {

struct Bytes : Bytes512 {
  static constexpr float kLimit = 127.0F;

  static Ints dot(Ints sum, Quad a, Quad b) {
    // Not the intrinsic: GCC 12 copies the accumulators around it, four moves for a product.
    asm("vpdpbusd %2, %1, %0" : "+v"(sum.value) : "v"(a.value), "v"(b.value));
    return sum;
  }
};

}  // namespace
}  // namespace loragraft

#include "simd/bytes_impl.hpp"
#include "simd/cells_impl.hpp"

namespace loragraft {

const Kernels& kernels_avx512vnni() {
  static constexpr ByteKernels kBytes = make_byte_kernels();
  static constexpr CellKernels kCells = make_cell_kernels();
  static constexpr Kernels kTable = make_kernels("avx512vnni", &kBytes, &kCells);
  return kTable;
}

}  // namespace loragraft
