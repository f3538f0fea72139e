#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/mapped_file.hpp"

namespace loragraft::fuzz {

// What must hold. Not `assert`: it holds in every build.
inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

// An input, taken apart from its front. Behind its end come zeros.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}

  template <class T>
  T take() {
    T value{};
    const std::size_t some = std::min(sizeof(T), rest_.size());
    if (some != 0) std::memcpy(&value, rest_.data(), some);
    rest_ = rest_.subspan(some);
    return value;
  }

  // A number from 0 to most.
  std::size_t upto(std::size_t most) { return take<std::uint16_t>() % (most + 1); }

  // Mostly a small number, now and then any.
  std::size_t number(std::size_t small) {
    return take<std::uint8_t>() < 240 ? upto(small) : take<std::uint64_t>();
  }

  [[nodiscard]] std::span<const std::uint8_t> rest() const { return rest_; }
  [[nodiscard]] bool empty() const { return rest_.empty(); }

 private:
  std::span<const std::uint8_t> rest_;
};

// A file in memory, with a path.
class MemoryFile {
 public:
  explicit MemoryFile(std::span<const std::uint8_t> content)
      : descriptor_(::memfd_create("fuzz", 0)), bytes_(content.begin(), content.end()) {
    require(descriptor_ >= 0, "memfd_create");
    for (std::size_t done = 0; done < bytes_.size();) {
      const ssize_t some = ::write(descriptor_, bytes_.data() + done, bytes_.size() - done);
      require(some > 0, "write");
      done += static_cast<std::size_t>(some);
    }
  }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  [[nodiscard]] std::shared_ptr<const MappedFile> open(IoMode mode) const {
    return std::make_shared<MappedFile>("/proc/self/fd/" + std::to_string(descriptor_), mode);
  }
  void truncate(std::size_t size) const {
    require(::ftruncate(descriptor_, static_cast<off_t>(size)) == 0, "ftruncate");
  }
  [[nodiscard]] const std::vector<std::uint8_t>& bytes() const { return bytes_; }

 private:
  int descriptor_;
  std::vector<std::uint8_t> bytes_;
};

}  // namespace loragraft::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
