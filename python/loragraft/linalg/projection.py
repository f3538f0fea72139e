"""Projection of updates on the subspaces of another model."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import numpy as np

from loragraft import native
from loragraft.errors import NonFiniteError, UsageError
from loragraft.linalg.operands import (
    FactorPair,
    SupportsDLPack,
    common_batch,
    factor_pair,
    matrices,
    stacked,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


@overload
def project(
    delta: FactorPair, U: SupportsDLPack, V: SupportsDLPack, *, threads: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
@overload
def project(
    delta: SupportsDLPack, U: SupportsDLPack, V: SupportsDLPack, *, threads: int | None = None
) -> NDArray[np.float32]: ...
def project(
    delta: SupportsDLPack | FactorPair,
    U: SupportsDLPack,
    V: SupportsDLPack,
    *,
    threads: int | None = None,
) -> NDArray[np.float32] | tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Keep of an update what lies in two subspaces, P = U Uᵀ ΔW V Vᵀ.

    Equation 3 of LoRA-X (arXiv 2501.16559): ΔW of the source model is projected on the column
    space U and the row space V of the target's weight. A factored ΔW = B A stays factored,
    U (Uᵀ B) and (A V) Vᵀ, and no (m, n) matrix is formed.

    Args:
        delta: ΔW, dense (..., m, n), or a tuple of factors (B (..., m, r), A (..., r, n)).
        U: (..., m, p), orthonormal columns. This is not checked.
        V: (..., n, q), orthonormal columns. This is not checked.
        threads: To work with; None takes one per core. The result does not depend on it.

    Leading dimensions are a batch and broadcast as in NumPy: one U serves many updates.

    Returns:
        In the form of ``delta`` and in its unit, float32: P (..., m, n), or its factors
        (B (..., m, r), A (..., r, n)).

    Raises:
        UsageError: Shapes that do not fit, or no real floating-point arrays on the CPU.
        NonFiniteError: NaN or Inf in an operand, or a result beyond the range of float32.

    Examples:
        >>> import numpy as np
        >>> from loragraft.linalg import project
        >>> u, v = np.eye(3)[:, :1], np.eye(2)[:, 1:]
        >>> project(np.arange(6.0).reshape(3, 2), u, v).tolist()
        [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
        >>> b, a = project((np.ones((3, 1)), np.full((1, 2), 5.0)), u, v)
        >>> (b @ a).tolist()
        [[0.0, 5.0], [0.0, 0.0], [0.0, 0.0]]
    """
    u, v = matrices(U, "U"), matrices(V, "V")
    workers = native.resolve_threads(threads)
    if isinstance(delta, tuple):
        b, a = factor_pair(delta, "delta")
        _require_fit(b.shape[-2], a.shape[-1], u, v)
        batch = common_batch([("B", b), ("A", a), ("U", u), ("V", v)])
        left, right = native.project_factors(
            stacked(b, batch), stacked(a, batch), stacked(u, batch), stacked(v, batch), workers
        )
        return _unstacked(left, batch), _unstacked(right, batch)
    dense = matrices(delta, "delta")
    _require_fit(dense.shape[-2], dense.shape[-1], u, v)
    batch = common_batch([("delta", dense), ("U", u), ("V", v)])
    return _unstacked(
        native.project_dense(stacked(dense, batch), stacked(u, batch), stacked(v, batch), workers),
        batch,
    )


def _require_fit(m: int, n: int, u: NDArray[np.float32], v: NDArray[np.float32]) -> None:
    for name, basis, length in (("U", u, m), ("V", v, n)):
        rows, columns = basis.shape[-2:]
        if rows != length or columns > rows:
            raise UsageError(
                f"{name} has shape {basis.shape}: expected {length} rows to fit delta "
                f"(..., {m}, {n}), and at most as many orthonormal columns"
            )


def _unstacked(stack: NDArray[np.float32], batch: tuple[int, ...]) -> NDArray[np.float32]:
    if not np.isfinite(stack).all():
        raise NonFiniteError(
            "delta: its projection is beyond the range of float32: scale it, and see that U and V "
            "have orthonormal columns"
        )
    return stack.reshape(*batch, *stack.shape[-2:])
