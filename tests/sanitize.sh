#!/usr/bin/env bash
# The tests on an extension built with AddressSanitizer and UndefinedBehaviorSanitizer, the whole
# suite unless files are named. A finding ends the process, so the run cannot pass over it.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
out=$PWD/build/asan-ubsan
tests=("$@")
[ $# -gt 0 ] || tests=(tests/python)

PATH="$PWD/$venv/bin:$PATH" cmake --preset asan-ubsan >/dev/null
PATH="$PWD/$venv/bin:$PATH" cmake --build --preset asan-ubsan

# What fuzzing has kept of the targets in C++.
for target in tests/fuzz/native/*.cpp; do
    name=$(basename "$target" .cpp)
    [ ! -x "$out/bin/replay_$name" ] ||
        "$out/bin/replay_$name" "tests/fuzz/corpus/$name" "tests/fuzz/crashes/$name" 2>"$out/replay.log" ||
        { tail -n 40 "$out/replay.log"; exit 1; }
done

# A Python of its own with a copy of the package beside the instrumented extension, so that processes
# which the tests start have it too. The project's environment is only a place to find packages in.
rm -rf "$out/package" "$out/venv" && mkdir -p "$out/package"
cp -r python/loragraft "$out/package/"
rm -f "$out"/package/loragraft/_core*.so
cp "$out"/csrc/_core*.so "$out/package/loragraft/"
"$venv/bin/python" -m venv --without-pip "$out/venv"
inside=$("$out/venv/bin/python" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")
{
    echo "$out/package"
    "$venv/bin/python" -c "import sys; print(*(p for p in sys.path if p.endswith('-packages')), sep='\n')"
} >"$inside/sanitized.pth"

# Leaks are Python's own. tests/python/conftest.py has the tests that cannot run here, and why.
export LD_PRELOAD="$(g++ -print-file-name=libasan.so):$(g++ -print-file-name=libubsan.so)"
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1
export PYTHONMALLOC=malloc LORAGRAFT_SANITIZED=1
"$out/venv/bin/python" -m pytest -p no:cacheprovider -q -o timeout=1200 "${tests[@]}"
