#!/usr/bin/env bash
# The thread pool and the batch under ThreadSanitizer: a program of its own, for Python and NumPy
# are not built for it. A finding ends it with an error.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/${VENV:-.venv}/bin:$PATH"
cmake --preset tsan >/dev/null
cmake --build --preset tsan
TSAN_OPTIONS="halt_on_error=1 second_deadlock_stack=1" build/tsan/bin/threads
