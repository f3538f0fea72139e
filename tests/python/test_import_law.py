"""Rules of the layout that import-linter cannot state."""

import ast
from pathlib import Path

import loragraft

PACKAGE = Path(loragraft.__file__).parent
CSRC = PACKAGE.parents[1] / "csrc"
LAYERS = ("base", "io", "simd", "stored", "linalg", "exact", "batch", "bindings")
MAY_INCLUDE = {
    "base": {"base"},
    "io": {"base", "io"},
    "simd": {"base", "simd"},
    "stored": {"base", "io", "simd", "stored"},
    "linalg": {"base", "io", "simd", "stored", "linalg"},
    "exact": {"base", "io", "simd", "stored", "linalg", "exact"},
    "batch": {"base", "io", "simd", "stored", "linalg", "exact", "batch"},
    "bindings": set(LAYERS),
}


def imported_modules(source: str) -> set[str]:
    """Return what a module imports, names of ``from`` imports included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def included_files(source: str, mark: str) -> set[str]:
    """Return what a C++ source includes in quotes (mark ``"``) or angle brackets (``<``)."""
    lines = (
        line.split(mark, 1)[1]
        for line in source.splitlines()
        if line.startswith(f"#include {mark}")
    )
    return {line.rstrip('">').split('"')[0].split(">")[0] for line in lines}


def sources() -> list[Path]:
    found = sorted(path for path in CSRC.rglob("*.?pp"))
    assert len(found) > 30
    return found


def test_only_native_imports_the_extension() -> None:
    importers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if "loragraft._core" in imported_modules(path.read_text(encoding="utf-8"))
    }
    assert importers == {"native.py"}


def test_only_what_runs_models_imports_torch_and_only_inside_of_functions() -> None:
    heavy = {"torch", "transformers", "peft", "lm_eval", "datasets"}
    importers = set()
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        if {name.split(".")[0] for name in imported_modules(source)} & heavy:
            importers.add(path.relative_to(PACKAGE).as_posix())
            top = "\n".join(
                ast.unparse(node)
                for node in ast.parse(source).body
                if not isinstance(node, ast.FunctionDef | ast.ClassDef)
            )
            assert not {name.split(".")[0] for name in imported_modules(top)} & heavy
    assert importers == {
        "calibration/language_model.py",
        "evaluation/divergence.py",
        "evaluation/harness.py",
        "evaluation/machine.py",
        "evaluation/scoring.py",
        "evaluation/subject.py",
    }


def test_cpp_layers_include_only_what_lies_below() -> None:
    for path in sources():
        layer = path.relative_to(CSRC).parts[0]
        layers = {name.split("/")[0] for name in included_files(path.read_text(), '"')}
        assert layers <= MAY_INCLUDE[layer], path


def test_only_the_bindings_know_python_and_only_blas_knows_lapack() -> None:
    for path in sources():
        layer = path.relative_to(CSRC).parts[0]
        headers = included_files(path.read_text(), "<")
        assert not any(name.startswith("torch") for name in headers), path
        if layer != "bindings":
            assert not any(name.startswith(("pybind11", "Python.h")) for name in headers), path
        if path.name != "blas.cpp":
            assert not headers & {"cblas.h", "lapacke.h"}, path


def test_isa_files_include_nothing_with_inline_functions() -> None:
    allowed = {"immintrin.h"}
    for name in ("avx2.cpp", "avx512.cpp", "kernels_impl.hpp"):
        source = (CSRC / "simd" / name).read_text()
        assert included_files(source, "<") <= allowed
    for name in ("simd/kernels.hpp", "base/dtype.hpp"):
        assert included_files((CSRC / name).read_text(), "<") <= {"cstddef", "cstdint"}
