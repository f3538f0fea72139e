#pragma once

#include <cstddef>

namespace loragraft {

struct GuardedEntry;

// A mapped part of a file that can be read without fear for the process.
//
// Where a page cannot be had any more, for the file was cut short or the disk fails, the system
// raises SIGBUS in the thread that reads it. The handler that the first range installs puts zeros
// in the place of the rest of the range and notes that; whoever has read asks `lost` before using
// what was read. A SIGBUS anywhere else goes to whoever handled it before.
class GuardedRange {
 public:
  GuardedRange() = default;
  // `begin` is where a page begins. The range must be guarded for as long as it is mapped.
  GuardedRange(std::byte* begin, std::size_t size);
  ~GuardedRange();
  GuardedRange(const GuardedRange&) = delete;
  GuardedRange& operator=(const GuardedRange&) = delete;
  GuardedRange(GuardedRange&& other) noexcept;
  GuardedRange& operator=(GuardedRange&& other) noexcept;

  [[nodiscard]] bool lost() const;

 private:
  GuardedEntry* entry_ = nullptr;
};

}  // namespace loragraft
