// Compiled with the platform's own flags: runs everywhere, and is the referee of the others.
#include "simd/kernels.hpp"

namespace loragraft {
namespace {

float float_of(unsigned bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

// Four lanes, for the compiler to put into one register of any baseline.
struct Vec {
  static constexpr std::size_t kLanes = 4;
  static constexpr std::size_t kRows = 4;

  float value[kLanes];

  template <class F>
  static Vec each(F element) {
    Vec out{};
    for (std::size_t i = 0; i < kLanes; ++i) out.value[i] = element(i);
    return out;
  }

  static Vec zero() { return {}; }
  static Vec load(const float* p) {
    Vec out{};
    __builtin_memcpy(out.value, p, sizeof(out.value));
    return out;
  }
  static Vec broadcast(const float* p) {
    return each([x = *p](std::size_t) { return x; });
  }
  static Vec load_bf16(const unsigned short* p) {
    unsigned short bits[kLanes];
    __builtin_memcpy(bits, p, sizeof(bits));
    return each([&](std::size_t i) { return widen_bf16(bits[i]); });
  }
  static Vec load_f16(const unsigned short* p) {
    unsigned short bits[kLanes];
    __builtin_memcpy(bits, p, sizeof(bits));
    return each([&](std::size_t i) { return widen_f16(bits[i]); });
  }
  static Vec load_f8_e4m3(const unsigned char* p) {
    return each([p](std::size_t i) { return widen_f8_e4m3(p[i]); });
  }
  static Vec load_f8_e5m2(const unsigned char* p) {
    return each([p](std::size_t i) { return widen_f8_e5m2(p[i]); });
  }
  static Vec load_i8(const unsigned char* p) {
    return each([p](std::size_t i) { return static_cast<float>(static_cast<signed char>(p[i])); });
  }
  static Vec load_u8(const unsigned char* p) {
    return each([p](std::size_t i) { return static_cast<float>(p[i]); });
  }
  static Vec load_f4_e2m1(const unsigned char* p) {
    return each([p](std::size_t i) {
      return widen_f4_e2m1(static_cast<unsigned char>(p[i / 2] >> (4 * (i % 2))));
    });
  }
  void store(float* p) const { __builtin_memcpy(p, value, sizeof(value)); }
  void store_bf16(unsigned short* p) const {
    for (std::size_t i = 0; i < kLanes; ++i) p[i] = narrow_bf16(value[i]);
  }
  void store_f16(unsigned short* p) const {
    for (std::size_t i = 0; i < kLanes; ++i) p[i] = narrow_f16(value[i]);
  }
  [[nodiscard]] Vec binade() const {
    return each([this](std::size_t i) {
      unsigned bits;
      __builtin_memcpy(&bits, &value[i], sizeof(bits));
      return float_of(bits & 0x7F800000U);
    });
  }
  [[nodiscard]] Vec magnitude() const {
    return each([this](std::size_t i) { return __builtin_fabsf(value[i]); });
  }
  [[nodiscard]] Vec signed_like(const Vec& other) const {
    return each(
        [&](std::size_t i) { return __builtin_signbit(other.value[i]) ? -value[i] : value[i]; });
  }
  [[nodiscard]] std::size_t nonzero_lanes() const {
    std::size_t count = 0;
    for (const float x : value) count += x != 0.0F ? 1 : 0;
    return count;
  }

  friend Vec add(const Vec& a, const Vec& b) {
    return each([&](std::size_t i) { return a.value[i] + b.value[i]; });
  }
  friend Vec sub(const Vec& a, const Vec& b) {
    return each([&](std::size_t i) { return a.value[i] - b.value[i]; });
  }
  friend Vec mul(const Vec& a, const Vec& b) {
    return each([&](std::size_t i) { return a.value[i] * b.value[i]; });
  }
  friend Vec max(const Vec& a, const Vec& b) {
    return each([&](std::size_t i) { return a.value[i] > b.value[i] ? a.value[i] : b.value[i]; });
  }
  friend Vec min(const Vec& a, const Vec& b) {
    return each([&](std::size_t i) { return a.value[i] < b.value[i] ? a.value[i] : b.value[i]; });
  }
  friend Vec fma(const Vec& a, const Vec& b, const Vec& c) {
    return each([&](std::size_t i) { return a.value[i] * b.value[i] + c.value[i]; });
  }

  struct Sums {
    double sum[kLanes] = {};
    void add_squares(const float* p) {
      for (std::size_t i = 0; i < kLanes; ++i) {
        sum[i] += static_cast<double>(p[i]) * static_cast<double>(p[i]);
      }
    }
    [[nodiscard]] double total() const { return (sum[0] + sum[1]) + (sum[2] + sum[3]); }
  };
};

}  // namespace
}  // namespace loragraft

#include "simd/kernels_impl.hpp"
// After what it builds on.
#include "simd/cells_impl.hpp"

namespace loragraft {

const Kernels& kernels_baseline() {
  static constexpr CellKernels kCells = make_cell_kernels();
  static constexpr Kernels kTable = make_kernels("baseline", nullptr, &kCells);
  return kTable;
}

}  // namespace loragraft
