"""Settings of the whole suite."""

from __future__ import annotations

import os

# Before anything imports NumPy: the waiting threads of its BLAS spin, and beside the threads under
# test on few cores that makes small reference computations a hundred times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
