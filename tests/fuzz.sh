#!/usr/bin/env bash
# Every fuzz target for FUZZ_SECONDS each: those in Python, and where there is a Clang with libFuzzer
# those in C++ too.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
export PATH="$PWD/$venv/bin:$PATH"

compiler=${CLANGXX:-}
for name in clang++ clang++-{22..14}; do
    [ -n "$compiler" ] || compiler=$(command -v "$name" || true)
done
can_fuzz() { echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
    "$1" -fsanitize=fuzzer,address -x c++ - -o /dev/null 2>/dev/null; }
if [ -n "$compiler" ] && can_fuzz "$compiler"; then
    CXX=$compiler cmake --preset fuzz >/dev/null
    cmake --build --preset fuzz
else
    echo "fuzz: no Clang with libFuzzer (Debian: clang-16 libclang-rt-16-dev): the C++ targets are left out" >&2
fi
"$venv/bin/python" tests/fuzz/run.py --seconds "${FUZZ_SECONDS:-60}" "$@"
