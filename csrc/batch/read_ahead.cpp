#include "batch/read_ahead.hpp"

#include <algorithm>

namespace loragraft {
namespace {

constexpr std::size_t kAhead = std::size_t{256} << 20;

std::size_t bytes_of(const ModuleTask& task) { return task.base->nbytes() + task.tuned->nbytes(); }

void read_ahead(const StoredMatrix& matrix) {
  for (const FileRange& range : matrix.ranges()) range.file->read_ahead(range.offset, range.length);
}

}  // namespace

void ReadAhead::started(std::size_t task) {
  const std::scoped_lock lock(mutex_);
  // Its own tensors are read by whoever started it.
  if (task < next_) ahead_ -= std::min(ahead_, bytes_of(tasks_[task]));
  next_ = std::max(next_, task + 1);
  for (; next_ < tasks_.size() && ahead_ < kAhead; ++next_) {
    const ModuleTask& coming = tasks_[next_];
    read_ahead(*coming.base);
    read_ahead(*coming.tuned);
    ahead_ += bytes_of(coming);
  }
}

}  // namespace loragraft
