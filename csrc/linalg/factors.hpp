#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "linalg/rsvd.hpp"

namespace loragraft {

// How factors are written: BF16, F16 or F32, or unset for F16 where it is safe and BF16 elsewhere.
struct FactorFormat {
  std::optional<DType> dtype;
  double scaling = 1.0;  // the adapter's alpha / rank, divided out of the factors
};

// The two factors of an adapter as they go to disk, dW ~ scaling * lora_b lora_a, balanced:
// lora_b = U sqrt(S / scaling), lora_a = sqrt(S / scaling) Vt.
struct StoredFactors {
  DType dtype = DType::f32;
  std::size_t rank = 0;           // 0: none
  std::vector<std::byte> lora_a;  // (r, n) in dtype
  std::vector<std::byte> lora_b;  // (m, r) in dtype
};

// The same values in float, lora_b times the scaling: the adapter adds left right.
struct Factors {
  StoredFactors stored;
  Matrix<float> right;  // (r, n)
  Matrix<float> left;   // (m, r)
};

// Cut to `rank` triplets and cast. Throws Errc::invalid_argument when an explicit F16 overflows.
Factors make_factors(const TruncatedSvd& svd, std::size_t rank, const FactorFormat& format);

// Cast lora_b (m, r) and lora_a (r, n), of which the scaling is divided out already. Throws
// Errc::invalid_argument when they leave the range of float32, or of an explicit F16.
Factors store_factors(Matrix<float> lora_b, Matrix<float> lora_a, const FactorFormat& format);

}  // namespace loragraft
