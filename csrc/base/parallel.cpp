#include "base/parallel.hpp"

#include <algorithm>
#include <exception>
#include <system_error>

namespace loragraft {

struct ThreadPool::Loop {
  const std::function<void(std::size_t)>& body;
  std::size_t count;
  std::size_t next = 0;  // every field below is guarded by the pool's mutex
  std::size_t running = 0;
  std::exception_ptr failure;

  [[nodiscard]] bool open() const { return next < count; }
};

ThreadPool::ThreadPool(std::size_t threads) {
  workers_.reserve(threads);
  try {
    for (std::size_t i = 1; i < threads; ++i) workers_.emplace_back([this] { worker(); });
  } catch (const std::system_error&) {  // NOLINT(bugprone-empty-catch)
    // A limit on processes or memory: the threads that did start do the work.
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
}

void ThreadPool::work(Loop& loop, std::unique_lock<std::mutex>& lock) {
  ++loop.running;
  while (loop.open()) {
    const std::size_t index = loop.next++;
    lock.unlock();
    std::exception_ptr failure;
    try {
      loop.body(index);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    if (failure) {
      if (!loop.failure) loop.failure = failure;
      loop.next = loop.count;
    }
  }
  if (--loop.running == 0) changed_.notify_all();
}

void ThreadPool::worker() {
  std::unique_lock lock(mutex_);
  for (;;) {
    // Oldest loop first: outer work is larger, inner loops are helped when it runs out.
    const auto open = std::ranges::find_if(loops_, [](const Loop* loop) { return loop->open(); });
    if (open != loops_.end()) {
      work(**open, lock);
    } else if (stopping_) {
      return;
    } else {
      changed_.wait(lock);
    }
  }
}

void ThreadPool::parallel_for(std::size_t count, const std::function<void(std::size_t)>& body) {
  if (count == 0) return;
  Loop loop{.body = body, .count = count, .failure = {}};
  std::unique_lock lock(mutex_);
  const auto place = loops_.insert(loops_.end(), &loop);
  if (count > 1) changed_.notify_all();
  work(loop, lock);
  changed_.wait(lock, [&] { return loop.running == 0; });
  loops_.erase(place);
  if (loop.failure) std::rethrow_exception(loop.failure);
}

}  // namespace loragraft
