// Compiled with -mavx2 -mfma -mf16c.
#include <immintrin.h>

#include "simd/kernels.hpp"

namespace loragraft {
namespace {

struct Vec {
  static constexpr std::size_t kLanes = 8;
  static constexpr std::size_t kRows =
      6;  // 12 accumulators, 2 operands, 1 broadcast of 16 registers

  __m256 value;

  static Vec zero() { return {_mm256_setzero_ps()}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec broadcast(const float* p) { return {_mm256_broadcast_ss(p)}; }
  static Vec load_bf16(const unsigned short* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
  }
  static Vec load_f16(const unsigned short* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  void store(float* p) const { _mm256_storeu_ps(p, value); }
  [[nodiscard]] Vec binade() const {
    return {_mm256_and_ps(value, _mm256_castsi256_ps(_mm256_set1_epi32(0x7F800000)))};
  }

  friend Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.value, b.value)}; }
  friend Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.value, b.value)}; }
  friend Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.value, b.value)}; }
  friend Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.value, b.value, c.value)}; }

  struct Squares {
    __m256d low = _mm256_setzero_pd();
    __m256d high = _mm256_setzero_pd();
    void add(Vec x) {
      const __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(x.value));
      const __m256d b = _mm256_cvtps_pd(_mm256_extractf128_ps(x.value, 1));
      low = _mm256_fmadd_pd(a, a, low);
      high = _mm256_fmadd_pd(b, b, high);
    }
    [[nodiscard]] double total() const {
      double lanes[4];
      _mm256_storeu_pd(lanes, _mm256_add_pd(low, high));
      return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
    }
  };
};

}  // namespace
}  // namespace loragraft

#include "simd/kernels_impl.hpp"

namespace loragraft {

const Kernels& kernels_avx2() {
  static constexpr Kernels kTable = make_kernels("avx2");
  return kTable;
}

}  // namespace loragraft
