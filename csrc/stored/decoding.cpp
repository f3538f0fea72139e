#include "stored/decoding.hpp"

#include "simd/isa.hpp"

namespace loragraft {

void decode(Encoding encoding, const std::byte* codes, const float* scales, float* out,
            std::size_t n, double* steps) {
  if (encoding != Encoding::f8_e8m0) {
    kernels().decode[static_cast<std::size_t>(encoding)](codes, scales, out, n, steps);
    return;
  }
  for (std::size_t i = 0; i < n; ++i) {
    out[i] = widen_f8_e8m0(static_cast<std::uint8_t>(codes[i]));
    if (scales != nullptr) out[i] *= scales[i];
  }
}

}  // namespace loragraft
