#include "simd/isa.hpp"

#ifdef LORAGRAFT_X86
#include <cpuid.h>
#endif

#include <cstdlib>

#include "base/error.hpp"

namespace loragraft {
namespace {

#ifdef LORAGRAFT_X86
// __builtin_cpu_supports knows it in GCC, and in Clang from 17 on.
bool has_f16c() {
  constexpr unsigned kF16c = 1U << 29U;
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & kF16c) != 0;
}
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx512vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#endif

const Kernels& choose() {
  const char* forced = std::getenv("LORAGRAFT_ISA");
  if (forced != nullptr && *forced != '\0') return kernels_named(forced);
  return kernels_named(available_isas().back());
}

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names{"baseline"};
#ifdef LORAGRAFT_X86
  if (has_avx2()) names.emplace_back("avx2");
  if (has_avx512()) names.emplace_back("avx512");
  if (has_avx512vnni()) names.emplace_back("avx512vnni");
#endif
  return names;
}

const Kernels& kernels_named(const std::string& name) {
  std::string known;
  for (const std::string& available : available_isas()) {
    known += (known.empty() ? "" : ", ") + available;
    if (available != name) continue;
#ifdef LORAGRAFT_X86
    if (name == "avx2") return kernels_avx2();
    if (name == "avx512") return kernels_avx512();
    if (name == "avx512vnni") return kernels_avx512vnni();
#endif
    return kernels_baseline();
  }
  throw Error(Errc::unsupported,
              "LORAGRAFT_ISA=" + name + ": this machine runs " + known + "; unset it to choose");
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace loragraft
