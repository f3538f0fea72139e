#include "base/workspaces.hpp"

#include <sys/mman.h>

namespace loragraft {

Workspaces::Workspaces(std::size_t count, std::size_t bytes_each) {
  all_.reserve(count);
  free_.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    void* address = ::mmap(nullptr, bytes_each, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    // Tasks do without where the system gives no more.
    if (address == MAP_FAILED) break;
#ifdef MADV_HUGEPAGE
    ::madvise(address, bytes_each, MADV_HUGEPAGE);
#endif
    all_.emplace_back(static_cast<std::byte*>(address), bytes_each);
  }
  free_ = all_;
}

Workspaces::~Workspaces() {
  for (const std::span<std::byte> buffer : all_) ::munmap(buffer.data(), buffer.size());
}

Workspaces::Lease Workspaces::borrow() {
  const std::scoped_lock lock(mutex_);
  if (free_.empty()) return {};
  const std::span<std::byte> buffer = free_.back();
  free_.pop_back();
  return {this, buffer};
}

void Workspaces::give_back(std::span<std::byte> buffer) {
  const std::scoped_lock lock(mutex_);
  free_.push_back(buffer);
}

}  // namespace loragraft
