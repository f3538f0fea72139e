// Compiled with -mavx512f -mavx512bw -mavx512dq -mavx512vl.
#include <immintrin.h>

#include "simd/kernels.hpp"

namespace loragraft {
namespace {

struct Vec {
  static constexpr std::size_t kLanes = 16;
  static constexpr std::size_t kRows =
      12;  // 24 accumulators, 2 operands, 1 broadcast of 32 registers

  __m512 value;

  static Vec zero() { return {_mm512_setzero_ps()}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec broadcast(const float* p) { return {_mm512_set1_ps(*p)}; }
  static Vec load_bf16(const unsigned short* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
  }
  static Vec load_f16(const unsigned short* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  void store(float* p) const { _mm512_storeu_ps(p, value); }
  [[nodiscard]] Vec binade() const {
    return {_mm512_and_ps(value, _mm512_castsi512_ps(_mm512_set1_epi32(0x7F800000)))};
  }

  friend Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.value, b.value)}; }
  friend Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.value, b.value)}; }
  friend Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.value, b.value)}; }
  friend Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.value, b.value, c.value)}; }

  struct Squares {
    __m512d low = _mm512_setzero_pd();
    __m512d high = _mm512_setzero_pd();
    void add(Vec x) {
      const __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(x.value));
      const __m512d b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x.value, 1));
      low = _mm512_fmadd_pd(a, a, low);
      high = _mm512_fmadd_pd(b, b, high);
    }
    [[nodiscard]] double total() const { return _mm512_reduce_add_pd(_mm512_add_pd(low, high)); }
  };
};

}  // namespace
}  // namespace loragraft

#include "simd/kernels_impl.hpp"

namespace loragraft {

const Kernels& kernels_avx512() {
  static constexpr Kernels kTable = make_kernels("avx512");
  return kTable;
}

}  // namespace loragraft
