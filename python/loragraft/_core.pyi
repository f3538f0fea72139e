"""Types of the C++ extension. Sources: csrc/bindings/bind_*.cpp."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

class MappedFile:
    def __init__(self, path: str | bytes, io: str = "auto") -> None: ...
    @property
    def size(self) -> int: ...
    @property
    def mapped(self) -> bool: ...

class StoredMatrix:
    def __init__(
        self,
        file: MappedFile,
        offset: int,
        dtype: str,
        rows: int,
        cols: int,
        row_stride: int | None = None,
        col_stride: int | None = None,
    ) -> None: ...
    @staticmethod
    def stacked(parts: Sequence[StoredMatrix]) -> StoredMatrix: ...
    @staticmethod
    def interleaved(parts: Sequence[StoredMatrix]) -> StoredMatrix: ...
    @staticmethod
    def scaled(
        codes: StoredMatrix,
        scales: StoredMatrix,
        block_rows: int,
        block_cols: int,
        factor: float = 1.0,
    ) -> StoredMatrix: ...
    @staticmethod
    def microscaled(
        blocks_file: MappedFile,
        blocks_offset: int,
        scales_file: MappedFile,
        scales_offset: int,
        rows: int,
        cols: int,
        first_row: int = 0,
        row_step: int = 1,
    ) -> StoredMatrix: ...
    @staticmethod
    def q8(
        file: MappedFile,
        offset: int,
        rows: int,
        cols: int,
        first_row: int = 0,
        row_step: int = 1,
    ) -> StoredMatrix: ...
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...

class ModuleTask:
    def __init__(
        self,
        name: str,
        base: StoredMatrix,
        tuned: StoredMatrix,
        rank: int,
        key: int,
        scaling: float,
    ) -> None: ...
    @staticmethod
    def recovery(
        name: str,
        base: StoredMatrix,
        tuned: StoredMatrix,
        lora_a: NDArray[np.float32],
        lora_b: NDArray[np.float32],
        dtype: str,
        *,
        scaling: float,
        slack: float,
        rounds: int,
    ) -> ModuleTask: ...

class Recovery:
    @property
    def end(self) -> str: ...
    @property
    def rounds(self) -> int: ...
    @property
    def outside(self) -> int: ...
    @property
    def exact(self) -> int: ...
    @property
    def changed(self) -> int: ...

class ModuleResult:
    @property
    def unchanged(self) -> bool: ...
    @property
    def delta_square(self) -> float: ...
    @property
    def base_square(self) -> float: ...
    @property
    def rounding_square(self) -> float: ...
    @property
    def singular_values(self) -> list[float]: ...
    @property
    def further_values(self) -> list[float]: ...
    @property
    def optimal_square(self) -> float: ...
    @property
    def residual_square(self) -> float: ...
    @property
    def optimal_squares(self) -> list[float]: ...
    @property
    def residual_squares(self) -> list[float]: ...
    @property
    def passes(self) -> int: ...
    @property
    def exact(self) -> bool: ...
    @property
    def seconds(self) -> float: ...
    @property
    def recovery(self) -> Recovery | None: ...
    @property
    def rank(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def lora_a(self) -> bytes: ...
    @property
    def lora_b(self) -> bytes: ...

class Batch:
    def __init__(
        self,
        tasks: Sequence[ModuleTask],
        oversampling: int,
        power_iterations: int | None,
        dtype: str,
        threads: int,
        arithmetic: str = "auto",
        workspace: int | None = None,
        nested: bool = False,
    ) -> None: ...
    def next(self, timeout: float) -> tuple[int, ModuleResult] | None: ...
    @property
    def exhausted(self) -> bool: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...

class ExactFactors:
    @property
    def lora_a(self) -> NDArray[np.float32]: ...
    @property
    def lora_b(self) -> NDArray[np.float32]: ...
    @property
    def end(self) -> str: ...
    @property
    def violations(self) -> int: ...
    @property
    def exact_count(self) -> int: ...
    @property
    def history(self) -> list[tuple[int, float]]: ...

def isa() -> str: ...
def available_isas() -> list[str]: ...
def blas_description() -> str: ...
def philox_block(key: int, low: int, high: int) -> list[int]: ...
def truncated_svd(
    a: NDArray[np.float32],
    rank: int,
    oversampling: int,
    power_iterations: int | None,
    key: int,
    threads: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]: ...
def leading_subspaces(
    matrix: StoredMatrix, rank: int, power_iterations: int | None, key: int, threads: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], float]: ...
def unit_lines_times(
    matrix: StoredMatrix,
    columns: bool,
    gain: NDArray[np.float32],
    right: NDArray[np.float32],
    threads: int,
) -> NDArray[np.float32]: ...
def best_products(
    a: NDArray[np.float32], b: NDArray[np.float32], count: int, threads: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...
def frobenius_norm(matrix: StoredMatrix, threads: int) -> float: ...
def project_dense(
    delta: NDArray[np.float32], u: NDArray[np.float32], v: NDArray[np.float32], threads: int
) -> NDArray[np.float32]: ...
def project_factors(
    b: NDArray[np.float32],
    a: NDArray[np.float32],
    u: NDArray[np.float32],
    v: NDArray[np.float32],
    threads: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
def subspace_similarity(
    u1: NDArray[np.float32], u2: NDArray[np.float32], threads: int
) -> NDArray[np.float64]: ...
def inner_product(
    x: NDArray[np.float32], y: NDArray[np.float32], threads: int
) -> NDArray[np.float64]: ...
def factored_inner_product(
    b1: NDArray[np.float32],
    a1: NDArray[np.float32],
    b2: NDArray[np.float32],
    a2: NDArray[np.float32],
    threads: int,
) -> NDArray[np.float64]: ...
def mixed_inner_product(
    d: NDArray[np.float32], b: NDArray[np.float32], a: NDArray[np.float32], threads: int
) -> NDArray[np.float64]: ...
def widen(stored: bytes, dtype: str, isa: str = "") -> NDArray[np.float32]: ...
def narrow(values: NDArray[np.float32], dtype: str) -> bytes: ...
def exact_factors(
    base: StoredMatrix,
    tuned: StoredMatrix,
    lora_a: NDArray[np.float32],
    lora_b: NDArray[np.float32],
    dtype: str,
    *,
    rounds: int = 1000,
    patience: int = 24,
    memory: int = 8,
    swaps: int = 3,
    stretch: float | None = None,
    slack: float = 0.0,
    threads: int = 1,
) -> ExactFactors: ...
def count_exact(
    base: StoredMatrix,
    tuned: StoredMatrix,
    lora_a: NDArray[np.float32],
    lora_b: NDArray[np.float32],
    dtype: str,
    *,
    threads: int = 1,
) -> int: ...
def cell_residual(
    base: StoredMatrix,
    tuned: StoredMatrix,
    lora_a: NDArray[np.float32],
    lora_b: NDArray[np.float32],
    dtype: str,
    *,
    stretch: float = 1.0,
    slack: float = 0.0,
    threads: int = 1,
) -> tuple[float, int, NDArray[np.float32], NDArray[np.float32]]: ...
def rounding_cells(
    values: NDArray[np.float32], dtype: str, *, saturated: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]: ...
