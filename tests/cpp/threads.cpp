// The thread pool and the batch, for ThreadSanitizer: what they do side by side, stopped, failing,
// left in the middle. `make sanitize-threads` runs it.

#include <atomic>
#include <bit>
#include <chrono>
#include <limits>
#include <thread>

#include "../fuzz/native/input.hpp"
#include "batch/batch.hpp"
#include "stored/plain_matrix.hpp"

namespace loragraft::fuzz {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kRows = 96;
constexpr std::size_t kCols = 80;
constexpr std::size_t kTasks = 12;
constexpr std::size_t kBytes = kRows * kCols * 2;

// Matrices of small bf16 numbers, all different; `spoilt` has an infinite one.
std::vector<std::uint8_t> numbers(std::size_t count, std::size_t spoilt) {
  std::vector<std::uint8_t> content;
  std::uint64_t state = 1;
  for (std::size_t i = 0; i < count * kRows * kCols; ++i) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    const float value = static_cast<float>(state >> 40U) / 16777216.0F - 0.5F;
    const bool bad = i == spoilt * kRows * kCols + 7;
    const std::uint16_t bits = narrow_bf16(bad ? std::numeric_limits<float>::infinity() : value);
    content.push_back(static_cast<std::uint8_t>(bits & 255U));
    content.push_back(static_cast<std::uint8_t>(bits >> 8U));
  }
  return content;
}

std::shared_ptr<const StoredMatrix> matrix(const std::shared_ptr<const MappedFile>& file,
                                           std::size_t number) {
  const Geometry geometry{kRows, kCols, kCols, 1};
  return std::make_shared<PlainMatrix>(
      StridedNumbers(file, number * kBytes, Encoding::bf16, geometry));
}

std::vector<ModuleTask> tasks(const MemoryFile& memory, IoMode mode) {
  const auto file = memory.open(mode);
  std::vector<ModuleTask> all;
  for (std::size_t i = 0; i < kTasks; ++i) {
    all.push_back({.name = "task " + std::to_string(i),
                   .base = matrix(file, i),
                   .tuned = matrix(file, i + 1),
                   .rank = 4,
                   .key = i});
  }
  return all;
}

std::vector<double> finish(Batch& batch) {
  std::vector<double> squares(kTasks);
  while (!batch.exhausted()) {
    if (const auto done = batch.next(milliseconds(1000))) {
      squares[done->index] = done->result.residual_square;
    }
  }
  return squares;
}

void loops_in_loops() {
  ThreadPool pool(4);
  std::vector<int> plain(64 * 64);
  for (int round = 0; round < 20; ++round) {
    pool.parallel_for(64, [&](std::size_t i) {
      pool.parallel_for(64, [&](std::size_t j) { ++plain[i * 64 + j]; });
    });
  }
  for (const int count : plain) require(count == 20, "every body runs once");
}

void loops_from_several_threads() {
  ThreadPool pool(3);
  std::vector<std::jthread> callers;
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&] {
      std::vector<int> plain(100);
      for (int round = 0; round < 50; ++round) {
        pool.parallel_for(plain.size(), [&](std::size_t i) { ++plain[i]; });
      }
      for (const int count : plain) require(count == 50, "every body runs once");
    });
  }
}

void loops_that_end_early() {
  ThreadPool pool(4);
  for (std::size_t round = 0; round < 200; ++round) {
    CancelToken cancel;
    const std::jthread other([&] { cancel.cancel(); });
    try {
      pool.parallel_for(50, [&](std::size_t i) {
        pool.parallel_for(4, [&](std::size_t) { cancel.check(); });
        if (i == round % 60) throw Error(Errc::numeric, "as planned");
      });
    } catch (const Error& error) {
      require(error.code() == Errc::cancelled || error.code() == Errc::numeric, "its code");
    }
  }
}

void batches_side_by_side(const MemoryFile& memory) {
  std::vector<std::vector<double>> found(3);
  {
    std::vector<std::jthread> callers;
    for (std::size_t caller = 0; caller < found.size(); ++caller) {
      callers.emplace_back([&memory, &mine = found[caller], caller] {
        const IoMode mode = caller == 0 ? IoMode::pread : IoMode::mmap;
        ModuleOptions options;
        options.nested = caller == 1;
        Batch batch(tasks(memory, mode), options, caller + 1);
        mine = finish(batch);
      });
    }
  }
  require(found[0] == found[1] && found[1] == found[2], "the same whatever the threads");
}

void batches_that_are_left(const MemoryFile& memory) {
  for (int round = 0; round < 6; ++round) {
    Batch batch(tasks(memory, IoMode::mmap), {}, 3);
    try {
      if (round % 3 != 0) batch.next(milliseconds(round));
      const std::jthread other([&] { batch.cancel(); });
      if (round % 2 == 0) batch.next(milliseconds(20));
    } catch (const Error& error) {
      require(error.code() == Errc::cancelled, "its code");
    }
    if (round % 2 == 0) batch.close();
  }
}

void batches_that_fail(const MemoryFile& memory) {
  Batch batch(tasks(memory, IoMode::automatic), {}, 3);
  try {
    finish(batch);
    require(false, "an infinite weight is seen");
  } catch (const Error& error) {
    require(error.code() == Errc::non_finite, "its code");
  }
}

}  // namespace
}  // namespace loragraft::fuzz

int main() {
  using namespace loragraft::fuzz;
  constexpr std::size_t kNowhere = 1000;
  const MemoryFile good(numbers(kTasks + 1, kNowhere));
  const MemoryFile spoilt(numbers(kTasks + 1, kTasks / 2));
  loops_in_loops();
  loops_from_several_threads();
  loops_that_end_early();
  batches_side_by_side(good);
  batches_that_are_left(good);
  batches_that_fail(spoilt);
  std::puts("threads: all of it held");
  return 0;
}
