#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "batch/module.hpp"

namespace loragraft {

// Works through many module tasks in the background and hands results out as they are done, in
// any order; each result depends on its task and the options alone. Destruction cancels and waits.
class Batch {
 public:
  Batch(std::vector<ModuleTask> tasks, const ModuleOptions& options, std::size_t threads);
  ~Batch();
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  struct Completed {
    std::size_t index;
    ModuleResult result;
  };

  // The next finished task, or nothing when `timeout` passes first or all have been handed out.
  // Throws the first error of a task; from then on Errc::cancelled.
  std::optional<Completed> next(std::chrono::milliseconds timeout);

  // Every task has been handed out by `next`.
  [[nodiscard]] bool exhausted() const;
  [[nodiscard]] std::size_t size() const { return tasks_.size(); }

  // Kernels stop between two slabs.
  void cancel() { cancel_.cancel(); }

  // Cancel and wait for the workers.
  void close();

 private:
  void drive(std::size_t threads);

  std::vector<ModuleTask> tasks_;
  ModuleOptions options_;
  CancelToken cancel_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Completed> done_;
  std::size_t handed_out_ = 0;
  std::exception_ptr failure_;
  bool failure_told_ = false;
  std::jthread driver_;  // last: its thread uses everything above
};

}  // namespace loragraft
