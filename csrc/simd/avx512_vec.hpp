// `Vec` and the parts of `Bytes` that the files of AVX-512 share; each compiles its own copy.
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
  // Bytes as fp16 numbers; one of NaN's codes becomes all ones.
  static Vec load_f8_e4m3(const unsigned char* p) {
    const __m256i codes = widened(p);
    const __m256i magnitude = _mm256_and_si256(codes, _mm256_set1_epi16(0x7F));
    const __m256i sign = _mm256_slli_epi16(_mm256_andnot_si256(_mm256_set1_epi16(0x7F), codes), 8);
    const __m256i nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7F));
    const __m256i half =
        _mm256_or_si256(_mm256_or_si256(_mm256_slli_epi16(magnitude, 7), sign), nan);
    return {_mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0F))};
  }
  static Vec load_f8_e5m2(const unsigned char* p) {
    return {_mm512_cvtph_ps(_mm256_slli_epi16(widened(p), 8))};
  }
  static Vec load_i8(const unsigned char* p) {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes))};
  }
  static Vec load_u8(const unsigned char* p) {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes))};
  }
  static Vec load_f4_e2m1(const unsigned char* p) {
    const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    // The permutation looks at the lower four bits alone.
    const __m512i codes = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(low, _mm_srli_epi16(low, 4)));
    const __m512 table = _mm512_setr_ps(0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F, -0.0F,
                                        -0.5F, -1.0F, -1.5F, -2.0F, -3.0F, -4.0F, -6.0F);
    return {_mm512_permutexvar_ps(codes, table)};
  }
  static __m256i widened(const unsigned char* p) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  void store(float* p) const { _mm512_storeu_ps(p, value); }
  void store_bf16(unsigned short* p) const {
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i bias = _mm512_add_epi32(even, _mm512_set1_epi32(0x7FFF));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
    const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet)));
  }
  void store_f16(unsigned short* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
  }
  [[nodiscard]] Vec binade() const {
    return {_mm512_and_ps(value, _mm512_castsi512_ps(_mm512_set1_epi32(0x7F800000)))};
  }
  [[nodiscard]] Vec magnitude() const { return {_mm512_abs_ps(value)}; }
  [[nodiscard]] Vec signed_like(Vec other) const {
    return {_mm512_xor_ps(value, _mm512_and_ps(other.value, _mm512_set1_ps(-0.0F)))};
  }
  [[nodiscard]] std::size_t nonzero_lanes() const {
    return static_cast<std::size_t>(
        __builtin_popcount(_mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_NEQ_UQ)));
  }

  friend Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.value, b.value)}; }
  friend Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.value, b.value)}; }
  friend Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.value, b.value)}; }
  friend Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.value, b.value)}; }
  friend Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.value, b.value)}; }
  friend Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.value, b.value, c.value)}; }

  struct Sums {
    __m512d low = _mm512_setzero_pd();
    __m512d high = _mm512_setzero_pd();
    // From memory, where widening needs no shuffle.
    void add_squares(const float* p) {
      const __m512d front = _mm512_cvtps_pd(_mm256_loadu_ps(p));
      const __m512d back = _mm512_cvtps_pd(_mm256_loadu_ps(p + 8));
      low = _mm512_fmadd_pd(front, front, low);
      high = _mm512_fmadd_pd(back, back, high);
    }
    [[nodiscard]] double total() const { return _mm512_reduce_add_pd(_mm512_add_pd(low, high)); }
  };
};

struct Bytes512 {
  static constexpr std::size_t kTall = 12;
  static constexpr std::size_t kShort = 8;
  static constexpr std::size_t kSplit = 64;

  struct Ints {
    __m512i value;

    static Ints zero() { return {_mm512_setzero_si512()}; }
    static Ints load(const std::int32_t* p) { return {_mm512_loadu_si512(p)}; }
    static Ints round(Vec x) { return {_mm512_cvtps_epi32(x.value)}; }
    [[nodiscard]] Vec to_vec() const { return {_mm512_cvtepi32_ps(value)}; }
    [[nodiscard]] Ints times_128() const { return {_mm512_slli_epi32(value, 7)}; }
    void store(std::int32_t* p) const { _mm512_storeu_si512(p, value); }
    friend Ints add(Ints a, Ints b) { return {_mm512_add_epi32(a.value, b.value)}; }
    friend Ints sub(Ints a, Ints b) { return {_mm512_sub_epi32(a.value, b.value)}; }
  };

  struct Quad {
    __m512i value;

    static Quad load(const std::int8_t* p) { return {_mm512_loadu_si512(p)}; }
    static Quad broadcast(const std::uint8_t* p) {
      std::int32_t bytes;
      __builtin_memcpy(&bytes, p, sizeof(bytes));
      return {_mm512_set1_epi32(bytes)};
    }
  };

  // The low bytes of four registers, lane by lane.
  static void store_quads(const Ints (&rows)[4], std::int8_t* out) {
    const __m512i byte = _mm512_set1_epi32(0xFF);
    const __m512i first = _mm512_and_si512(rows[0].value, byte);
    const __m512i second = _mm512_slli_epi32(_mm512_and_si512(rows[1].value, byte), 8);
    const __m512i third = _mm512_slli_epi32(_mm512_and_si512(rows[2].value, byte), 16);
    const __m512i fourth = _mm512_slli_epi32(rows[3].value, 24);
    _mm512_storeu_si512(
        out, _mm512_or_si512(_mm512_or_si512(first, second), _mm512_or_si512(third, fourth)));
  }

  static Vec split(const float* in, Vec factor, Vec errors, std::uint8_t* high, std::uint8_t* low) {
    const auto rounded = [&](std::size_t i) {
      const Vec exact = mul(Vec::load(in + 16 * i), factor);
      const Ints whole = Ints::round(exact);
      const Vec error = sub(exact, whole.to_vec());
      errors = fma(error, error, errors);
      return whole.value;
    };
    const __m512i offset = _mm512_set1_epi16(static_cast<short>(0x8080));
    const __m512i byte = _mm512_set1_epi16(0xFF);
    const __m512i front = _mm512_add_epi16(_mm512_packs_epi32(rounded(0), rounded(1)), offset);
    const __m512i back = _mm512_add_epi16(_mm512_packs_epi32(rounded(2), rounded(3)), offset);
    const __m512i highs =
        _mm512_packus_epi16(_mm512_srli_epi16(front, 8), _mm512_srli_epi16(back, 8));
    const __m512i lows =
        _mm512_packus_epi16(_mm512_and_si512(front, byte), _mm512_and_si512(back, byte));
    // Packing works within 128-bit lanes: put the groups of four back in order.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(high, _mm512_permutexvar_epi32(order, highs));
    _mm512_storeu_si512(low, _mm512_permutexvar_epi32(order, lows));
    return errors;
  }

  static void interleave(const std::uint8_t* in, std::size_t ld, std::uint8_t* out) {
    const __m512i a = _mm512_loadu_si512(in);
    const __m512i b = _mm512_loadu_si512(in + ld);
    const __m512i c = _mm512_loadu_si512(in + 2 * ld);
    const __m512i d = _mm512_loadu_si512(in + 3 * ld);
    const __m512i ab_low = _mm512_unpacklo_epi8(a, b);
    const __m512i ab_high = _mm512_unpackhi_epi8(a, b);
    const __m512i cd_low = _mm512_unpacklo_epi8(c, d);
    const __m512i cd_high = _mm512_unpackhi_epi8(c, d);
    _mm512_storeu_si512(out, _mm512_unpacklo_epi16(ab_low, cd_low));
    _mm512_storeu_si512(out + 64, _mm512_unpackhi_epi16(ab_low, cd_low));
    _mm512_storeu_si512(out + 128, _mm512_unpacklo_epi16(ab_high, cd_high));
    _mm512_storeu_si512(out + 192, _mm512_unpackhi_epi16(ab_high, cd_high));
  }
};

}  // namespace
}  // namespace loragraft
