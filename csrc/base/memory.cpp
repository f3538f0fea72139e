#include "base/memory.hpp"

#include <algorithm>
#include <array>
#include <new>

namespace loragraft {
namespace {

constexpr std::align_val_t kAlignment{64};
// Smaller blocks are the C library's business.
constexpr std::size_t kLarge = std::size_t{64} << 10;
constexpr std::size_t kKeptBytes = std::size_t{16} << 20;
constexpr std::size_t kKeptBlocks = 32;
// A sanitizer is to see every block go.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kKeeps = false;
#elif defined(__has_feature)
constexpr bool kKeeps = !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer);
#else
constexpr bool kKeeps = true;
#endif

struct Block {
  void* memory = nullptr;
  std::size_t bytes = 0;
};

// Buffers of a thread may outlive its kept blocks; nothing is kept from then on.
thread_local bool keeping = true;

class Kept {
 public:
  Kept() = default;
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;
  ~Kept() {
    keeping = false;
    for (const Block& block : blocks_) ::operator delete(block.memory, kAlignment);
  }

  // A block of exactly this size: sizes recur from matrix to matrix.
  void* take(std::size_t bytes) {
    const auto found = std::ranges::find(blocks_, bytes, &Block::bytes);
    if (found == blocks_.end()) return nullptr;
    total_ -= bytes;
    void* const memory = found->memory;
    *found = {};
    return memory;
  }

  bool put(void* memory, std::size_t bytes) {
    if (bytes > kKeptBytes) return false;
    if (total_ + bytes > kKeptBytes) clear();
    const auto place = std::ranges::find(blocks_, nullptr, &Block::memory);
    if (place == blocks_.end()) return false;
    *place = {memory, bytes};
    total_ += bytes;
    return true;
  }

 private:
  // Sizes have changed: make room for those of now.
  void clear() {
    for (Block& block : blocks_) {
      ::operator delete(block.memory, kAlignment);
      block = {};
    }
    total_ = 0;
  }

  std::array<Block, kKeptBlocks> blocks_{};
  std::size_t total_ = 0;
};

Kept& kept() {
  thread_local Kept blocks;
  return blocks;
}

}  // namespace

void* take_memory(std::size_t bytes) {
  if (kKeeps && bytes >= kLarge && keeping) {
    if (void* const memory = kept().take(bytes)) return memory;
  }
  return ::operator new(bytes, kAlignment);
}

void give_memory_back(void* memory, std::size_t bytes) noexcept {
  if (kKeeps && bytes >= kLarge && keeping && kept().put(memory, bytes)) return;
  ::operator delete(memory, kAlignment);
}

}  // namespace loragraft
