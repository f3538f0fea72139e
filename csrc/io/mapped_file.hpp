#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "io/guarded_range.hpp"

namespace loragraft {

enum class IoMode : std::uint8_t { automatic, mmap, pread };

// Which file an open descriptor speaks of, and in what state.
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t size = 0;
  std::int64_t modified_ns = 0;
  bool operator==(const FileIdentity&) const = default;
};

// A regular file opened for reading, mapped or read by pread. Every access is checked against the
// size the file had when it was opened. `automatic` maps local files and reads network ones, where
// pages fail more often.
class MappedFile {
 public:
  MappedFile(const std::string& path, IoMode mode);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::size_t size() const { return identity_.size; }
  [[nodiscard]] bool mapped() const { return map_ != nullptr; }

  // Bytes [offset, offset + length): in place when mapped, otherwise read into `scratch`, which
  // must hold `length` bytes.
  [[nodiscard]] std::span<const std::byte> bytes(std::size_t offset, std::size_t length,
                                                 std::span<std::byte> scratch) const;

  // Bring a mapped range in. A range the file lost meanwhile is an Error here, not a SIGBUS later.
  void populate(std::size_t offset, std::size_t length) const;

  // Ask the system to read a range in the background, unless its ends are in memory already. Only a
  // hint: nothing is reported, here or later.
  void read_ahead(std::size_t offset, std::size_t length) const;

  // Errc::format when the file is no longer the one that was opened, or when bytes of it could not
  // be had while it was read: those were zeros. To be asked before using anything that was read.
  void check_unchanged() const;

 private:
  void check_range(std::size_t offset, std::size_t length) const;
  void read_exactly(std::size_t offset, std::span<std::byte> out) const;

  std::string path_;
  int descriptor_ = -1;
  FileIdentity identity_;
  std::byte* map_ = nullptr;
  GuardedRange guard_;
};

}  // namespace loragraft
