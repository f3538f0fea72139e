#include "batch/batch.hpp"

#include <algorithm>
#include <string>
#include <system_error>
#include <utility>

#include "batch/read_ahead.hpp"

namespace loragraft {

Batch::Batch(std::vector<ModuleTask> tasks, const ModuleOptions& options, std::size_t threads)
    : tasks_(std::move(tasks)), options_(options) {
  try {
    driver_ = std::jthread([this, threads] { drive(threads); });
  } catch (const std::system_error& error) {
    throw Error(Errc::unsupported, std::string("no thread can be started: ") + error.what() +
                                       "; raise the limit on processes (ulimit -u)");
  }
}

Batch::~Batch() { close(); }

void Batch::close() {
  cancel();
  if (driver_.joinable()) driver_.join();
}

void Batch::drive(std::size_t threads) {
  try {
    ThreadPool pool(threads);
    const std::size_t lent = std::min(pool.threads(), tasks_.size());
    Workspaces workspaces(
        lent, checked_mul(options_.workspace, pool.threads()) / std::max<std::size_t>(1, lent));
    const Run run{.pool = pool, .cancel = cancel_, .workspaces = &workspaces};
    ReadAhead ahead(tasks_);
    pool.parallel_for(tasks_.size(), [&](std::size_t i) {
      cancel_.check();
      ahead.started(i);
      Completed completed{i, extract_module(tasks_[i], options_, run)};
      {
        const std::scoped_lock lock(mutex_);
        done_.push_back(std::move(completed));
      }
      changed_.notify_all();
    });
  } catch (...) {
    const std::scoped_lock lock(mutex_);
    failure_ = std::current_exception();
  }
  changed_.notify_all();
}

std::optional<Batch::Completed> Batch::next(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, timeout,
                    [&] { return failure_ || !done_.empty() || handed_out_ == tasks_.size(); });
  if (failure_) {
    // Once: whoever goes on asking is told that nothing more will come.
    if (std::exchange(failure_told_, true)) {
      throw Error(Errc::cancelled, "the batch has failed and does no more work");
    }
    std::rethrow_exception(failure_);
  }
  if (done_.empty()) return std::nullopt;
  Completed completed = std::move(done_.front());
  done_.pop_front();
  ++handed_out_;
  return completed;
}

bool Batch::exhausted() const {
  const std::scoped_lock lock(mutex_);
  return handed_out_ == tasks_.size();
}

}  // namespace loragraft
