#include "io/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.hpp"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

namespace loragraft {
namespace {

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw Error(Errc::format, path + ": " + what);
}

[[noreturn]] void fail_errno(const std::string& path, const std::string& what, int error) {
  fail(path, what + ": " + std::strerror(error));
}

FileIdentity identify(int descriptor, const std::string& path) {
  struct stat status{};
  if (::fstat(descriptor, &status) != 0) fail_errno(path, "cannot be examined", errno);
  if (!S_ISREG(status.st_mode)) fail(path, "is not a regular file");
  return {.device = status.st_dev,
          .inode = status.st_ino,
          .size = static_cast<std::uint64_t>(status.st_size),
          .modified_ns = status.st_mtim.tv_sec * 1'000'000'000LL + status.st_mtim.tv_nsec};
}

// File systems where a page may well not be fetched, which only a call can report as it is.
bool on_network(int descriptor) {
  static constexpr std::array<std::uint32_t, 8> kNetwork = {
      0x6969,      // NFS
      0xFF534D42,  // CIFS
      0xFE534D42,  // SMB2
      0x0BD00BD0,  // Lustre
      0x65735546,  // FUSE
      0x00C36400,  // Ceph
      0x01021997,  // 9P
      0x47504653,  // GPFS
  };
  struct statfs status{};
  if (::fstatfs(descriptor, &status) != 0) return true;
  return std::ranges::find(kNetwork, static_cast<std::uint32_t>(status.f_type)) != kNetwork.end();
}

}  // namespace

MappedFile::MappedFile(const std::string& path, IoMode mode) : path_(path) {
  // O_NONBLOCK: opening a FIFO must fail below rather than wait for a writer.
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) fail_errno(path, "cannot be opened", errno);
  try {
    identity_ = identify(descriptor_, path);
    const bool map =
        mode == IoMode::mmap || (mode == IoMode::automatic && !on_network(descriptor_));
    if (map && identity_.size > 0) {
      void* address =
          ::mmap(nullptr, identity_.size, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, descriptor_, 0);
      if (address != MAP_FAILED) {
        map_ = static_cast<std::byte*>(address);
        guard_ = GuardedRange(map_, identity_.size);
      } else if (mode == IoMode::mmap) {
        fail_errno(path, "cannot be mapped (--io pread reads it without a map)", errno);
      }
    }
  } catch (...) {
    if (map_ != nullptr) ::munmap(map_, identity_.size);
    ::close(descriptor_);
    throw;
  }
}

MappedFile::~MappedFile() {
  guard_ = {};
  if (map_ != nullptr) ::munmap(map_, identity_.size);
  ::close(descriptor_);
}

void MappedFile::check_range(std::size_t offset, std::size_t length) const {
  if (offset > identity_.size || length > identity_.size - offset) {
    fail(path_, "bytes " + std::to_string(offset) + " + " + std::to_string(length) +
                    " lie beyond the file's end at " + std::to_string(identity_.size));
  }
}

std::span<const std::byte> MappedFile::bytes(std::size_t offset, std::size_t length,
                                             std::span<std::byte> scratch) const {
  check_range(offset, length);
  if (map_ != nullptr) return {map_ + offset, length};
  if (scratch.size() < length) {
    throw Error(Errc::invalid_argument, path_ + ": scratch buffer is smaller than the range");
  }
  const auto out = scratch.first(length);
  read_exactly(offset, out);
  return out;
}

void MappedFile::read_exactly(std::size_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t got = ::pread(descriptor_, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_errno(path_, "cannot be read", errno);
    if (got == 0) fail(path_, "ended while it was read: the file was truncated");
    offset += static_cast<std::size_t>(got);
    out = out.subspan(static_cast<std::size_t>(got));
  }
}

void MappedFile::populate(std::size_t offset, std::size_t length) const {
  check_range(offset, length);
  if (map_ == nullptr || length == 0) return;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t begin = offset / page * page;
  while (::madvise(map_ + begin, offset + length - begin, MADV_POPULATE_READ) != 0) {
    if (errno == EINTR || errno == EAGAIN) continue;
    // Kernels before 5.14 do not know the advice; the pages then come in one by one.
    if (errno == EINVAL) return;
    fail_errno(path_, "cannot be read (truncated, or a failing disk)", errno);
  }
}

void MappedFile::read_ahead(std::size_t offset, std::size_t length) const {
  if (length == 0 || offset >= identity_.size || length > identity_.size - offset) return;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto in_memory = [&](std::size_t at) {
    unsigned char resident = 0;
    return ::mincore(map_ + at / page * page, 1, &resident) == 0 && (resident & 1U) != 0;
  };
  if (map_ != nullptr && in_memory(offset) && in_memory(offset + length - 1)) return;
  ::posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(length),
                  POSIX_FADV_WILLNEED);
}

void MappedFile::check_unchanged() const {
  if (guard_.lost())
    fail(path_, "could not be read to its end: it was truncated, or the disk fails");
  if (identify(descriptor_, path_) != identity_) {
    fail(path_, "changed while it was read: run again when nothing writes to it");
  }
}

}  // namespace loragraft
