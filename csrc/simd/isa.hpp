#pragma once

#include <string>
#include <vector>

#include "simd/kernels.hpp"

namespace loragraft {

// Names of the ISAs this machine runs, slowest first; "baseline" is always there.
std::vector<std::string> available_isas();

// The kernels in use: the fastest available, or those that LORAGRAFT_ISA names. The choice is made
// once; an unknown or unsupported name is Errc::unsupported.
const Kernels& kernels();

// The kernels of one ISA by name, for tests that compare them.
const Kernels& kernels_named(const std::string& name);

}  // namespace loragraft
