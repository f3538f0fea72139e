"""Settings of the whole suite."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

# Before anything imports NumPy: the waiting threads of its BLAS spin, and beside the threads under
# test on few cores that makes small reference computations a hundred times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

_MEASURES: Final = "measures memory, of which the sanitizer takes several times as much"
#: What `make sanitize` leaves out, by the start of its name, and why.
_NOT_SANITIZED: Final = {
    "test_review_findings.py::test_threads_that_cannot_be_started": "limits addresses, of which the"
    " sanitizer reserves terabytes",
    "test_extraction_memory.py": _MEASURES,
    "test_large_plans.py::test_a_plan_takes_little_memory": _MEASURES,
    "test_import_law.py": "reads sources where the package lies, which is a copy here",
    "test_checkpoint.py::test_hundred_thousand_tensors": "measures time",
    "test_safetensors_header.py::test_hundred_thousand_tensors": "measures time",
    "test_report_browser.py": "a browser does not start with the sanitizer's library loaded first",
}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny models of `llama_models`, each made once; nobody changes them."""
    import llama_models

    made: dict[str, Path] = {}

    def get(case: str) -> Path:
        if case not in made:
            made[case] = llama_models.build(case, tmp_path_factory.mktemp("model") / "hf")
        return made[case]

    return get


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    if not os.environ.get("LORAGRAFT_SANITIZED"):
        return
    for item in items:
        name = item.nodeid.rpartition("/")[2]
        for start, why in _NOT_SANITIZED.items():
            if name.startswith(start):
                item.add_marker(pytest.mark.skip(reason=f"under a sanitizer: {why}"))
