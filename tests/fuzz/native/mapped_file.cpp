// Ranges of files, mapped and read, in any order, also of files that shrink meanwhile: the bytes
// that are there, or an Error.

#include <algorithm>
#include <array>

#include "base/error.hpp"
#include "input.hpp"

namespace loragraft::fuzz {
namespace {

class Session {
 public:
  Session(std::span<const std::uint8_t> content, IoMode mode)
      : memory_(content), file_(memory_.open(mode)) {
    require(file_->size() == content.size(), "the size of the file");
  }

  void step(Input& input) {
    const std::uint8_t what = input.take<std::uint8_t>();
    const std::size_t offset = input.number(memory_.bytes().size() + 2);
    const std::size_t length = input.number(memory_.bytes().size() + 2);
    try {
      act(what % 8, offset, length);
    } catch (const Error& error) {
      require(error.code() == Errc::format || error.code() == Errc::invalid_argument, "the code");
    }
  }

 private:
  void act(unsigned what, std::size_t offset, std::size_t length) {
    switch (what) {
      case 0:
        return shrink(offset % (memory_.bytes().size() + 1));
      case 1:
        return file_->populate(offset, length);
      case 2:
        return file_->read_ahead(offset, length);
      case 3:
        file_->check_unchanged();
        return require(!shrunk_, "a change is seen");
      default:
        return read(offset, length, what == 4 ? length / 2 : length);
    }
  }

  // Pages of a map beyond the end kill the process that touches them, as documented.
  void shrink(std::size_t size) {
    if (file_->mapped()) return;
    memory_.truncate(size);
    shrunk_ = shrunk_ || size < memory_.bytes().size();
    size_ = std::min(size_, size);
    // What is cut off and comes back is zeros, which is not what this is about.
    memory_.truncate(size_);
  }

  void read(std::size_t offset, std::size_t length, std::size_t room) {
    const std::size_t size = memory_.bytes().size();
    const bool inside = offset <= size && length <= size - offset;
    std::vector<std::byte> scratch(inside ? room : 0);
    const auto found = file_->bytes(offset, length, scratch);
    require(inside, "a range beyond the end is refused");
    require(found.size() == length, "the length of a range");
    require(file_->mapped() || scratch.size() >= length, "a buffer that is too small is refused");
    if (length == 0) return;
    const bool equal = std::memcmp(found.data(), memory_.bytes().data() + offset, length) == 0;
    require(shrunk_ || equal, "the bytes of a range");
    require(offset + length <= size_, "bytes that are gone are not read");
  }

  MemoryFile memory_;
  std::shared_ptr<const MappedFile> file_;
  std::size_t size_ = memory_.bytes().size();
  bool shrunk_ = false;
};

}  // namespace
}  // namespace loragraft::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace loragraft;
  fuzz::Input input(data, size);
  constexpr std::array kModes = {IoMode::automatic, IoMode::mmap, IoMode::pread, IoMode::pread};
  const IoMode mode = kModes.at(input.take<std::uint8_t>() % kModes.size());
  const std::size_t bytes = input.upto(9000);
  std::vector<std::uint8_t> content(bytes);
  for (std::size_t i = 0; i < bytes; ++i) content[i] = static_cast<std::uint8_t>(i * 7 + i / 256);
  fuzz::Session session(content, mode);
  for (int i = 0; i < 64 && !input.empty(); ++i) session.step(input);
  return 0;
}
