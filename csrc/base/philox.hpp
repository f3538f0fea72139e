#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace loragraft {

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011). Counter based: element i depends on (key, i) alone, so that any thread may fill any
// part of a random matrix.
struct Philox {
  std::uint64_t key;

  using Block = std::array<std::uint32_t, 4>;

  [[nodiscard]] Block block(std::uint64_t low, std::uint64_t high = 0) const {
    std::uint32_t k0 = static_cast<std::uint32_t>(key);
    std::uint32_t k1 = static_cast<std::uint32_t>(key >> 32);
    Block c{static_cast<std::uint32_t>(low), static_cast<std::uint32_t>(low >> 32),
            static_cast<std::uint32_t>(high), static_cast<std::uint32_t>(high >> 32)};
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t p0 = 0xD2511F53ULL * c[0];
      const std::uint64_t p1 = 0xCD9E8D57ULL * c[2];
      c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
           static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
      k0 += 0x9E3779B9U;
      k1 += 0xBB67AE85U;
    }
    return c;
  }

  // Fill out[0, count) with values uniform on (-1, 1). Uniform rather than Gaussian entries: as
  // sub-Gaussian as a sketch needs, and free of libm, whose last bits differ between systems.
  void fill_uniform(float* out, std::size_t count) const {
    for (std::size_t i = 0; i < count; i += 4) {
      const Block bits = block(i / 4);
      for (std::size_t j = 0; j < 4 && i + j < count; ++j) {
        const auto centred = static_cast<std::int32_t>(bits[j] >> 8) * 2 - 0xFFFFFF;
        out[i + j] = static_cast<float>(centred) * 0x1p-24F;
      }
    }
  }

  // The same with the odd multiples of 1/256 alone, for what is going to be rounded to bytes: four
  // times as fast.
  void fill_bytes(float* out, std::size_t count) const {
    constexpr std::size_t kPerBlock = 16;
    for (std::size_t i = 0; i < count; i += kPerBlock) {
      const Block bits = block(i / kPerBlock);
      for (std::size_t j = 0; j < kPerBlock && i + j < count; ++j) {
        const auto byte = static_cast<std::int32_t>((bits[j / 4] >> (8 * (j % 4))) & 0xFFU);
        out[i + j] = static_cast<float>(2 * byte - 255) * 0x1p-8F;
      }
    }
  }
};

}  // namespace loragraft
