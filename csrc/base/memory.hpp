#pragma once

#include <cstddef>

namespace loragraft {

// Memory aligned to a cache line. Large blocks that are given back stay with the thread, a few of
// them, until it asks for a similar size again or ends: the system clears pages that it hands out,
// which costs as much as using them once.
void* take_memory(std::size_t bytes);
void give_memory_back(void* memory, std::size_t bytes) noexcept;

}  // namespace loragraft
