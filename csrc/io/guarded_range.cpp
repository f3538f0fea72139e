#include "io/guarded_range.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <mutex>
#include <utility>

namespace loragraft {

// Free where `end` is 0. Entries are never given back, so that the handler can walk along them
// while others come and go.
struct GuardedEntry {
  std::atomic<std::uintptr_t> begin = 0;
  std::atomic<std::uintptr_t> end = 0;
  std::atomic<bool> lost = false;
  GuardedEntry* next = nullptr;
};

namespace {

std::atomic<GuardedEntry*> first = nullptr;
std::mutex entries_mutex;  // NOLINT(cert-err58-cpp): its constructor is constexpr
struct sigaction before{};
// The thread whose signal is being passed on.
std::atomic<pid_t> passing = 0;

std::uintptr_t page_size() {
  static const auto size = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  return size;
}

// Everything from here to `pass_on` runs in the handler: nothing in it allocates or locks.
bool replace_lost(std::uintptr_t address) {
  for (GuardedEntry* entry = first.load(); entry != nullptr; entry = entry->next) {
    const std::uintptr_t end = entry->end.load();
    if (address < entry->begin.load() || address >= end) continue;
    // Noted first: other threads may see zeros as soon as they are there.
    entry->lost.store(true);
    const std::uintptr_t page = address / page_size() * page_size();
    // NOLINTNEXTLINE(performance-no-int-to-ptr): the system gives the address as it is
    void* const place = reinterpret_cast<void*>(page);
    return ::mmap(place, end - page, PROT_READ,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == place;
  }
  return false;
}

void pass_on(int number, siginfo_t* info, void* context) {
  const pid_t self = ::gettid();
  const bool came_back = passing.exchange(self) == self;
  if (!came_back && (before.sa_flags & SA_SIGINFO) != 0) {
    before.sa_sigaction(number, info, context);
  } else if (!came_back && before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
    before.sa_handler(number);
  } else {
    // Returning, the thread meets the same again and ends as if nobody had handled it.
    ::signal(number, SIG_DFL);
    if (info->si_code <= 0) ::raise(number);
  }
  passing.store(0);
}

void on_bus_error(int number, siginfo_t* info, void* context) {
  const int saved = errno;
  // Others than the system's own signals have no address.
  const bool ours =
      info->si_code > 0 && replace_lost(reinterpret_cast<std::uintptr_t>(info->si_addr));
  if (!ours) pass_on(number, info, context);
  errno = saved;
}

// Again for every range: others may have taken the signal meanwhile, and come before us then.
void install() {
  page_size();
  struct sigaction current{};
  if (::sigaction(SIGBUS, nullptr, &current) != 0) return;
  if ((current.sa_flags & SA_SIGINFO) != 0 && current.sa_sigaction == on_bus_error) return;
  before = current;
  struct sigaction ours{};
  ours.sa_sigaction = on_bus_error;
  // Whoever it is passed on to may raise it again, which must come here before that returns.
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  ::sigemptyset(&ours.sa_mask);
  ::sigaction(SIGBUS, &ours, nullptr);
}

GuardedEntry* free_entry() {
  for (GuardedEntry* entry = first.load(); entry != nullptr; entry = entry->next) {
    if (entry->end.load() == 0) return entry;
  }
  auto* const entry = new GuardedEntry;  // NOLINT(cppcoreguidelines-owning-memory): kept for ever
  entry->next = first.load();
  first.store(entry);
  return entry;
}

}  // namespace

GuardedRange::GuardedRange(std::byte* begin, std::size_t size) {
  const std::scoped_lock lock(entries_mutex);
  install();
  entry_ = free_entry();
  const auto start = reinterpret_cast<std::uintptr_t>(begin);
  entry_->lost.store(false);
  entry_->begin.store(start);
  // The system maps whole pages.
  entry_->end.store(start + (size + page_size() - 1) / page_size() * page_size());
}

GuardedRange::~GuardedRange() {
  if (entry_ != nullptr) entry_->end.store(0);
}

GuardedRange::GuardedRange(GuardedRange&& other) noexcept
    : entry_(std::exchange(other.entry_, nullptr)) {}

GuardedRange& GuardedRange::operator=(GuardedRange&& other) noexcept {
  std::swap(entry_, other.entry_);
  return *this;
}

bool GuardedRange::lost() const { return entry_ != nullptr && entry_->lost.load(); }

}  // namespace loragraft
