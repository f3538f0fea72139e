#pragma once

#include "batch/module.hpp"

namespace loragraft {

// Search factors inside the rounding cells of one pair, from task.start, and measure them as they
// are written.
void recover(const ModuleTask& task, const ModuleOptions& options, const Run& run,
             ModuleResult& result);

}  // namespace loragraft
