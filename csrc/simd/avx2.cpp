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
  // Bytes as fp16 numbers; one of NaN's codes becomes all ones.
  static Vec load_f8_e4m3(const unsigned char* p) {
    const __m128i codes = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    const __m128i magnitude = _mm_and_si128(codes, _mm_set1_epi16(0x7F));
    const __m128i sign = _mm_slli_epi16(_mm_andnot_si128(_mm_set1_epi16(0x7F), codes), 8);
    const __m128i nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7F));
    const __m128i half = _mm_or_si128(_mm_or_si128(_mm_slli_epi16(magnitude, 7), sign), nan);
    return {_mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0F))};
  }
  static Vec load_f8_e5m2(const unsigned char* p) {
    const __m128i codes = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_cvtph_ps(_mm_slli_epi16(codes, 8))};
  }
  static Vec load_i8(const unsigned char* p) {
    const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes))};
  }
  static Vec load_u8(const unsigned char* p) {
    const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(codes))};
  }
  static Vec load_f4_e2m1(const unsigned char* p) {
    int pairs;
    __builtin_memcpy(&pairs, p, sizeof(pairs));
    const __m128i low = _mm_cvtsi32_si128(pairs);
    const __m256i codes = _mm256_cvtepu8_epi32(_mm_unpacklo_epi8(low, _mm_srli_epi16(low, 4)));
    const __m256 table = _mm256_setr_ps(0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F);
    const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(codes, _mm256_set1_epi32(8)), 28);
    return {_mm256_xor_ps(_mm256_permutevar8x32_ps(table, codes), _mm256_castsi256_ps(sign))};
  }
  void store(float* p) const { _mm256_storeu_ps(p, value); }
  void store_bf16(unsigned short* p) const {
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i high = _mm256_srli_epi32(bits, 16);
    const __m256i even = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i bias = _mm256_add_epi32(even, _mm256_set1_epi32(0x7FFF));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    const __m256i halves = _mm256_blendv_epi8(rounded, quiet, nan);
    // Packing works within 128-bit lanes: bring the two halves together.
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(halves, halves), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
  void store_f16(unsigned short* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
  }
  [[nodiscard]] Vec binade() const {
    return {_mm256_and_ps(value, _mm256_castsi256_ps(_mm256_set1_epi32(0x7F800000)))};
  }

  [[nodiscard]] Vec magnitude() const {
    return {_mm256_and_ps(value, _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF)))};
  }

  [[nodiscard]] Vec signed_like(Vec other) const {
    const __m256 sign = _mm256_and_ps(other.value, _mm256_set1_ps(-0.0F));
    return {_mm256_xor_ps(value, sign)};
  }
  [[nodiscard]] std::size_t nonzero_lanes() const {
    const __m256 differs = _mm256_cmp_ps(value, _mm256_setzero_ps(), _CMP_NEQ_UQ);
    return static_cast<std::size_t>(
        __builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(differs))));
  }

  friend Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.value, b.value)}; }
  friend Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.value, b.value)}; }
  friend Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.value, b.value)}; }
  friend Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.value, b.value)}; }
  friend Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.value, b.value)}; }
  friend Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.value, b.value, c.value)}; }

  struct Sums {
    __m256d low = _mm256_setzero_pd();
    __m256d high = _mm256_setzero_pd();
    // From memory, where widening needs no shuffle.
    void add_squares(const float* p) {
      const __m256d front = _mm256_cvtps_pd(_mm_loadu_ps(p));
      const __m256d back = _mm256_cvtps_pd(_mm_loadu_ps(p + 4));
      low = _mm256_fmadd_pd(front, front, low);
      high = _mm256_fmadd_pd(back, back, high);
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
namespace {

struct Bytes {
  static constexpr float kLimit = 64.0F;
  static constexpr std::size_t kTall = 4;  // 8 accumulators, 2 operands, 1 broadcast, 2 temporary
  static constexpr std::size_t kShort = 4;
  static constexpr std::size_t kSplit = 32;

  struct Ints {
    __m256i value;

    static Ints zero() { return {_mm256_setzero_si256()}; }
    static Ints load(const std::int32_t* p) {
      return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
    }
    static Ints round(Vec x) { return {_mm256_cvtps_epi32(x.value)}; }
    [[nodiscard]] Vec to_vec() const { return {_mm256_cvtepi32_ps(value)}; }
    [[nodiscard]] Ints times_128() const { return {_mm256_slli_epi32(value, 7)}; }
    void store(std::int32_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), value); }
    friend Ints add(Ints a, Ints b) { return {_mm256_add_epi32(a.value, b.value)}; }
    friend Ints sub(Ints a, Ints b) { return {_mm256_sub_epi32(a.value, b.value)}; }
  };

  struct Quad {
    __m256i value;

    static Quad load(const std::int8_t* p) {
      return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
    }
    static Quad broadcast(const std::uint8_t* p) {
      std::int32_t bytes;
      __builtin_memcpy(&bytes, p, sizeof(bytes));
      return {_mm256_set1_epi32(bytes)};
    }
  };

  static Ints dot(Ints sum, Quad a, Quad b) {
    const __m256i pairs = _mm256_maddubs_epi16(a.value, b.value);
    return {_mm256_add_epi32(sum.value, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
  }

  // The low bytes of four registers, lane by lane.
  static void store_quads(const Ints (&rows)[4], std::int8_t* out) {
    const __m256i byte = _mm256_set1_epi32(0xFF);
    const __m256i first = _mm256_and_si256(rows[0].value, byte);
    const __m256i second = _mm256_slli_epi32(_mm256_and_si256(rows[1].value, byte), 8);
    const __m256i third = _mm256_slli_epi32(_mm256_and_si256(rows[2].value, byte), 16);
    const __m256i fourth = _mm256_slli_epi32(rows[3].value, 24);
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(out),
        _mm256_or_si256(_mm256_or_si256(first, second), _mm256_or_si256(third, fourth)));
  }

  static Vec split(const float* in, Vec factor, Vec errors, std::uint8_t* high, std::uint8_t* low) {
    const auto rounded = [&](std::size_t i) {
      const Vec exact = mul(Vec::load(in + 8 * i), factor);
      const Ints whole = Ints::round(exact);
      const Vec error = sub(exact, whole.to_vec());
      errors = fma(error, error, errors);
      return whole.value;
    };
    const __m256i offset = _mm256_set1_epi16(static_cast<short>(0x8080));
    const __m256i byte = _mm256_set1_epi16(0xFF);
    const __m256i front = _mm256_add_epi16(_mm256_packs_epi32(rounded(0), rounded(1)), offset);
    const __m256i back = _mm256_add_epi16(_mm256_packs_epi32(rounded(2), rounded(3)), offset);
    const __m256i highs =
        _mm256_packus_epi16(_mm256_srli_epi16(front, 8), _mm256_srli_epi16(back, 8));
    const __m256i lows =
        _mm256_packus_epi16(_mm256_and_si256(front, byte), _mm256_and_si256(back, byte));
    // Packing works within 128-bit lanes: put the groups of four back in order.
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(high),
                        _mm256_permutevar8x32_epi32(highs, order));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(low), _mm256_permutevar8x32_epi32(lows, order));
    return errors;
  }

  static void interleave(const std::uint8_t* in, std::size_t ld, std::uint8_t* out) {
    for (std::size_t half = 0; half < kByteUnit; half += 32) {
      const auto row = [&](std::size_t i) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i * ld + half));
      };
      const __m256i ab_low = _mm256_unpacklo_epi8(row(0), row(1));
      const __m256i ab_high = _mm256_unpackhi_epi8(row(0), row(1));
      const __m256i cd_low = _mm256_unpacklo_epi8(row(2), row(3));
      const __m256i cd_high = _mm256_unpackhi_epi8(row(2), row(3));
      const auto put = [&](std::size_t q, __m256i value) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + q * kByteUnit + half), value);
      };
      put(0, _mm256_unpacklo_epi16(ab_low, cd_low));
      put(1, _mm256_unpackhi_epi16(ab_low, cd_low));
      put(2, _mm256_unpacklo_epi16(ab_high, cd_high));
      put(3, _mm256_unpackhi_epi16(ab_high, cd_high));
    }
  }
};

}  // namespace
}  // namespace loragraft

#include "simd/bytes_impl.hpp"
#include "simd/cells_impl.hpp"

namespace loragraft {

const Kernels& kernels_avx2() {
  static constexpr ByteKernels kBytes = make_byte_kernels();
  static constexpr CellKernels kCells = make_cell_kernels();
  static constexpr Kernels kTable = make_kernels("avx2", &kBytes, &kCells);
  return kTable;
}

}  // namespace loragraft
