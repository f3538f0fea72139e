#pragma once

#include <cstddef>

namespace loragraft {

// A tile of numbers fills a cache line both ways: 64 / size rows and columns.
inline constexpr std::size_t kTileBytes = 64;

// The rows of a tile are anywhere; its columns go to `out`, `ld` bytes from one to the next.
// Numbers of 1, 2 or 4 bytes.
void transpose_tile(std::size_t size, const std::byte* const* rows, std::byte* out, std::size_t ld);

}  // namespace loragraft
