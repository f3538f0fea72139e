#include "simd/transpose.hpp"

#include <array>
#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace loragraft {
namespace {

#ifdef __SSE2__
constexpr std::size_t kVector = 16;

template <class T>
__m128i lower(__m128i a, __m128i b) {
  if constexpr (sizeof(T) == 1) return _mm_unpacklo_epi8(a, b);
  if constexpr (sizeof(T) == 2) return _mm_unpacklo_epi16(a, b);
  if constexpr (sizeof(T) == 4) return _mm_unpacklo_epi32(a, b);
}

template <class T>
__m128i upper(__m128i a, __m128i b) {
  if constexpr (sizeof(T) == 1) return _mm_unpackhi_epi8(a, b);
  if constexpr (sizeof(T) == 2) return _mm_unpackhi_epi16(a, b);
  if constexpr (sizeof(T) == 4) return _mm_unpackhi_epi32(a, b);
}

// A square of vectors. Shuffling the upper half of the rows into the lower one moves one bit of a
// number's row into its column; done for every bit it transposes.
template <class T>
void transpose_square(const std::byte* const* rows, std::size_t at, std::byte* out) {
  constexpr std::size_t kSide = kVector / sizeof(T);
  __m128i now[kSide];
  for (std::size_t i = 0; i < kSide; ++i) {
    now[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + at));
  }
  for (std::size_t bit = 1; bit < kSide; bit *= 2) {
    __m128i next[kSide];
    for (std::size_t i = 0; i < kSide / 2; ++i) {
      next[2 * i] = lower<T>(now[i], now[i + kSide / 2]);
      next[2 * i + 1] = upper<T>(now[i], now[i + kSide / 2]);
    }
    for (std::size_t i = 0; i < kSide; ++i) now[i] = next[i];
  }
  for (std::size_t i = 0; i < kSide; ++i) {
    _mm_store_si128(reinterpret_cast<__m128i*>(out + i * kTileBytes), now[i]);
  }
}

template <class T>
void transpose_into(const std::byte* const* rows, std::byte* out) {
  constexpr std::size_t kSide = kVector / sizeof(T);
  for (std::size_t i = 0; i < kTileBytes / kVector; ++i) {
    for (std::size_t j = 0; j < kTileBytes / kVector; ++j) {
      transpose_square<T>(rows + i * kSide, j * kVector,
                          out + j * kSide * kTileBytes + i * kVector);
    }
  }
}
#else
template <class T>
void transpose_into(const std::byte* const* rows, std::byte* out) {
  constexpr std::size_t kSide = kTileBytes / sizeof(T);
  for (std::size_t i = 0; i < kSide; ++i) {
    for (std::size_t j = 0; j < kSide; ++j) {
      std::memcpy(out + j * kTileBytes + i * sizeof(T), rows[i] + j * sizeof(T), sizeof(T));
    }
  }
}
#endif

template <class T>
void transpose(const std::byte* const* rows, std::byte* out, std::size_t ld) {
  // Columns of a large matrix fall into one cache set; each line is written once, whole.
  alignas(kTileBytes) std::array<std::byte, kTileBytes * kTileBytes / sizeof(T)> tile{};
  transpose_into<T>(rows, tile.data());
  for (std::size_t j = 0; j < kTileBytes / sizeof(T); ++j) {
    std::memcpy(out + j * ld, tile.data() + j * kTileBytes, kTileBytes);
  }
}

}  // namespace

void transpose_tile(std::size_t size, const std::byte* const* rows, std::byte* out,
                    std::size_t ld) {
  if (size == 1) return transpose<std::uint8_t>(rows, out, ld);
  if (size == 2) return transpose<std::uint16_t>(rows, out, ld);
  transpose<std::uint32_t>(rows, out, ld);
}

}  // namespace loragraft
