#pragma once

#include <cstddef>

#include "base/encoding.hpp"

namespace loragraft {

// out[i] = scales[i] * number i, n of them; null scales are ones. `steps`, unless null, grows by
// the sum of (scales[i] * spacing)^2, the spacing being that of the encoding's numbers around
// number i: 1 for integers. Powers of two have none.
void decode(Encoding encoding, const std::byte* codes, const float* scales, float* out,
            std::size_t n, double* steps);

}  // namespace loragraft
