// The kernels that read and write stored numbers, on every instruction set of the machine, at any
// address and length: all the same bits, and nothing touched outside.

#include <bit>
#include <cmath>

#include "input.hpp"
#include "simd/isa.hpp"

namespace loragraft::fuzz {
namespace {

bool same(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!same(a[i], b[i])) return false;
  }
  return true;
}

// Bytes that begin at an odd address or an even one, and end where their block does.
class Codes {
 public:
  Codes(Input& input, std::size_t bytes, std::size_t shift) : block_(shift + bytes), shift_(shift) {
    for (std::size_t i = 0; i < bytes; ++i) block_[shift + i] = input.take<std::byte>();
  }
  [[nodiscard]] const std::byte* data() const { return block_.data() + shift_; }

 private:
  std::vector<std::byte> block_;
  std::size_t shift_;
};

void check_narrow(const Kernels& kernel, std::size_t d, const std::byte* codes, std::size_t n) {
  const auto dtype = static_cast<DType>(d);
  std::vector<float> wide(n);
  kernel.widen[d](codes, wide.data(), n);
  std::vector<std::byte> back(n * size_of(dtype));
  kernel.narrow[d](wide.data(), back.data(), n);
  std::vector<float> again(n);
  kernel.widen[d](back.data(), again.data(), n);
  require(same(wide, again), "narrow undoes widen");
}

void check_dtype(const Kernels& kernel, std::size_t d, const std::byte* codes, std::size_t n) {
  std::vector<float> expected(n);
  std::vector<float> found(n);
  kernels_baseline().widen[d](codes, expected.data(), n);
  kernel.widen[d](codes, found.data(), n);
  require(same(expected, found), "widen: the same on every instruction set");
  check_narrow(kernel, d, codes, n);
}

void check_decode(const Kernels& kernel, std::size_t e, const std::byte* codes,
                  const std::vector<float>& scales) {
  const std::size_t n = scales.size();
  if (kernel.decode[e] == nullptr) return;
  std::vector<float> expected(n);
  std::vector<float> found(n);
  double steps = 0.0;
  for (const float* some : {scales.data(), static_cast<const float*>(nullptr)}) {
    kernels_baseline().decode[e](codes, some, expected.data(), n, nullptr);
    kernel.decode[e](codes, some, found.data(), n, nullptr);
    require(same(expected, found), "decode: the same on every instruction set");
    kernel.decode[e](codes, some, found.data(), n, &steps);
    require(same(expected, found), "decode: the same with steps");
  }
}

void check_delta(const Kernels& kernel, std::size_t b, std::size_t t, const Codes& base,
                 const Codes& tuned, std::size_t n) {
  std::vector<float> expected(n);
  std::vector<float> found(n);
  kernels_baseline().delta[b][t](base.data(), tuned.data(), expected.data(), n);
  kernel.delta[b][t](base.data(), tuned.data(), found.data(), n);
  require(same(expected, found), "delta: the same on every instruction set");
  TileSums sums;
  kernel.delta_sums[b][t](base.data(), tuned.data(), found.data(), n, sums);
  require(same(expected, found), "delta: the same with sums");
}

}  // namespace
}  // namespace loragraft::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace loragraft;
  fuzz::Input input(data, size);
  const std::size_t n = input.upto(200);
  const std::size_t shift = input.upto(7);
  const std::size_t b = input.upto(kDTypes - 1);
  const std::size_t t = input.upto(kDTypes - 1);
  const std::size_t e = input.upto(kEncodings - 1);
  const fuzz::Codes base(input, n * size_of(static_cast<DType>(b)), shift);
  const fuzz::Codes tuned(input, n * size_of(static_cast<DType>(t)), shift / 2);
  const fuzz::Codes codes(input, bytes_of(static_cast<Encoding>(e), n), shift);
  std::vector<float> scales(n);
  for (float& scale : scales) scale = input.take<float>();
  for (const std::string& name : available_isas()) {
    const Kernels& kernel = kernels_named(name);
    fuzz::check_dtype(kernel, b, base.data(), n);
    fuzz::check_decode(kernel, e, codes.data(), scales);
    fuzz::check_delta(kernel, b, t, base, tuned, n);
  }
  return 0;
}
