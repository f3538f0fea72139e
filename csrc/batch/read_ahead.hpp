#pragma once

#include <cstddef>
#include <mutex>
#include <span>

#include "batch/module.hpp"

namespace loragraft {

// Has the system read the tensors of coming tasks while present ones are computed, up to a number
// of bytes ahead, so that a disk is never idle. Tasks start in their order.
class ReadAhead {
 public:
  explicit ReadAhead(std::span<const ModuleTask> tasks) : tasks_(tasks) {}

  // To be called as a task starts, from any thread.
  void started(std::size_t task);

 private:
  std::span<const ModuleTask> tasks_;
  std::mutex mutex_;
  std::size_t next_ = 0;   // the first task that nothing was asked for
  std::size_t ahead_ = 0;  // bytes asked for whose tasks have not started
};

}  // namespace loragraft
