#!/usr/bin/env bash
# The kernels' tests on an extension built with AddressSanitizer and UndefinedBehaviorSanitizer.
# A finding ends the process, so the run cannot pass over it.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
python=$venv/bin/python
out=build/asan-ubsan
tests=("$@")
[ $# -gt 0 ] || tests=(tests/python/test_kernels.py tests/python/test_truncated_svd.py tests/python/test_batch.py
       tests/python/test_stored_matrix.py tests/python/test_nested_ranks.py
       tests/python/test_leading_subspaces.py)

PATH="$PWD/$venv/bin:$PATH" cmake --preset asan-ubsan >/dev/null
PATH="$PWD/$venv/bin:$PATH" cmake --build --preset asan-ubsan

# A copy of the package beside the instrumented extension; -S keeps the installed one out of the way.
rm -rf "$out/package" && mkdir -p "$out/package"
cp -r python/loragraft "$out/package/"
rm -f "$out"/package/loragraft/_core*.so
cp "$out"/csrc/_core*.so "$out/package/loragraft/"
site=$("$python" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")

# Leaks are Python's own; a vptr check needs RTTI that extensions do not share.
LD_PRELOAD="$(g++ -print-file-name=libasan.so):$(g++ -print-file-name=libubsan.so)" \
ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
UBSAN_OPTIONS=print_stacktrace=1 \
PYTHONMALLOC=malloc PYTHONPATH="$out/package:$site" \
  "$python" -S -m pytest -p no:cacheprovider -q "${tests[@]}"
