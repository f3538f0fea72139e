// The thread pool: loops in loops, bodies that fail, loops that are stopped. Every index runs at
// most once, exactly once unless something failed, and what a body throws comes out.

#include <atomic>

#include "base/parallel.hpp"
#include "input.hpp"

namespace loragraft::fuzz {
namespace {

struct Plan {
  std::size_t outer;
  std::size_t inner;
  std::size_t fails;    // the body that throws, counted over all; none where that is too large
  std::size_t cancels;  // likewise the body that cancels
};

class Loops {
 public:
  explicit Loops(const Plan& plan) : plan_(plan), runs_(plan.outer * plan.inner) {}

  void run(ThreadPool& pool) {
    bool failed = false;
    bool stopped = false;
    try {
      pool.parallel_for(plan_.outer, [&](std::size_t i) {
        pool.parallel_for(plan_.inner, [&](std::size_t j) { body(i * plan_.inner + j); });
      });
    } catch (const Error& error) {
      stopped = error.code() == Errc::cancelled;
      failed = !stopped;
    }
    check(failed, stopped);
  }

 private:
  void body(std::size_t at) {
    cancel_.check();
    runs_[at].fetch_add(1);
    if (at == plan_.cancels) cancel_.cancel();
    if (at == plan_.fails) throw Error(Errc::numeric, "as planned");
  }

  void check(bool failed, bool stopped) const {
    const std::size_t bodies = runs_.size();
    require(!failed || plan_.fails < bodies, "nothing fails that was not to");
    require(!stopped || plan_.cancels < bodies, "nothing stops that was not to");
    for (const auto& count : runs_) {
      require(count <= 1, "no body runs twice");
      require(count == 1 || failed || stopped, "every body runs");
    }
    const bool ran = plan_.fails < bodies && runs_[plan_.fails] == 1;
    require(!ran || failed || stopped, "what a body throws comes out");
  }

  Plan plan_;
  CancelToken cancel_;
  std::vector<std::atomic<int>> runs_;
};

}  // namespace
}  // namespace loragraft::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace loragraft;
  fuzz::Input input(data, size);
  ThreadPool pool(input.upto(4));
  for (int i = 0; i < 8 && !input.empty(); ++i) {
    fuzz::Loops loops({.outer = input.upto(20),
                       .inner = input.upto(20),
                       .fails = input.upto(500),
                       .cancels = input.upto(500)});
    loops.run(pool);
  }
  return 0;
}
