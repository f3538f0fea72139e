// Runs a target on the files that are named, and on those in folders that are: the target without a
// fuzzer, for compilers that have none.

#include <filesystem>
#include <fstream>
#include <iterator>

#include "input.hpp"

namespace {

void replay(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string content((std::istreambuf_iterator<char>(file)), {});
  // A block of exactly this size, so that a sanitizer sees what lies behind it.
  const std::vector<std::uint8_t> bytes(content.begin(), content.end());
  std::fprintf(stderr, "%s\n", path.c_str());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

}  // namespace

int main(int count, char** arguments) {
  std::size_t done = 0;
  for (const std::string name : std::span(arguments, static_cast<std::size_t>(count)).subspan(1)) {
    if (std::filesystem::is_directory(name)) {
      for (const auto& entry : std::filesystem::directory_iterator(name)) {
        replay(entry.path());
        ++done;
      }
    } else if (std::filesystem::exists(name)) {
      replay(name);
      ++done;
    }
  }
  std::printf("%zu inputs\n", done);
  return 0;
}
