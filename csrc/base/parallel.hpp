#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <list>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.hpp"

namespace loragraft {

// Asked for by a caller, honoured by the kernels between two tiles of work.
class CancelToken {
 public:
  void cancel() noexcept { cancelled_.store(true, std::memory_order_relaxed); }
  [[nodiscard]] bool cancelled() const noexcept {
    return cancelled_.load(std::memory_order_relaxed);
  }
  void check() const {
    if (cancelled()) throw Error(Errc::cancelled, "stopped on request");
  }

 private:
  std::atomic<bool> cancelled_{false};
};

// The one thread pool. `parallel_for` may be called from inside a body: idle threads then help
// with the inner loop, so that many small matrices and one huge one both use every core. What a
// body computes must not depend on which thread runs it or when.
class ThreadPool {
 public:
  // `threads` counts the thread that calls parallel_for; 0 means one. Fewer may start where the
  // system allows no more; results do not depend on it.
  explicit ThreadPool(std::size_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Run body(0) ... body(count - 1), in any order, and wait. The first exception thrown by a body
  // ends the loop early and is thrown again here.
  void parallel_for(std::size_t count, const std::function<void(std::size_t)>& body);

  [[nodiscard]] std::size_t threads() const { return workers_.size() + 1; }

 private:
  struct Loop;
  void work(Loop& loop, std::unique_lock<std::mutex>& lock);
  void worker();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Loop*> loops_;
  bool stopping_ = false;
  std::vector<std::jthread> workers_;
};

}  // namespace loragraft
