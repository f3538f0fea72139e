#pragma once

#include <cstddef>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

namespace loragraft {

// A few large buffers that tasks borrow in turn. Their pages come in as they are first touched and
// stay, so that a long row of tasks pays for them once.
class Workspaces {
 public:
  Workspaces(std::size_t count, std::size_t bytes_each);
  ~Workspaces();
  Workspaces(const Workspaces&) = delete;
  Workspaces& operator=(const Workspaces&) = delete;

  // Gives the buffer back when it goes.
  class Lease {
   public:
    Lease() = default;
    Lease(Workspaces* owner, std::span<std::byte> buffer) : owner_(owner), buffer_(buffer) {}
    Lease(Lease&& other) noexcept
        : owner_(std::exchange(other.owner_, nullptr)), buffer_(other.buffer_) {}
    Lease& operator=(Lease&&) = delete;
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease() {
      if (owner_ != nullptr) owner_->give_back(buffer_);
    }
    [[nodiscard]] std::span<std::byte> buffer() const { return buffer_; }

   private:
    Workspaces* owner_ = nullptr;
    std::span<std::byte> buffer_;
  };

  // A buffer that nobody else uses; empty when all are lent.
  [[nodiscard]] Lease borrow();

 private:
  void give_back(std::span<std::byte> buffer);

  std::mutex mutex_;
  std::vector<std::span<std::byte>> all_;
  std::vector<std::span<std::byte>> free_;
};

}  // namespace loragraft
