"""How alike two subspaces, or two updates, are."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from loragraft import native
from loragraft.errors import UsageError
from loragraft.linalg.operands import (
    FactorPair,
    SupportsDLPack,
    common_batch,
    factor_pair,
    matrices,
    stacked,
    whole_number,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    # A product, as its factors; a dense matrix is alone in its list.
    _Operand: TypeAlias = list[NDArray[np.float32]]

_LONGEST = 2**63 - 1
# Of one product or sum in double precision.
_ROUNDOFF = 2.0**-53


def subspace_similarity(
    U1: SupportsDLPack, U2: SupportsDLPack, *, threads: int | None = None
) -> float | NDArray[np.float64]:
    """Measure the overlap of two subspaces, ‖U1ᵀ U2‖_F² / min(p, q).

    The subspace similarity of LoRA-X (arXiv 2501.16559, section 4): the mean squared cosine of the
    principal angles. 1 where the smaller subspace lies in the larger, 0 where they are orthogonal.
    Two random subspaces overlap too, by max(p, q) / m on average: `chance_similarity`. Judge a
    value against that.

    Args:
        U1: (..., m, p), orthonormal columns. This is not checked.
        U2: (..., m, q), orthonormal columns. This is not checked.
        threads: To work with; None takes one per core. The result does not depend on it.

    Leading dimensions are a batch and broadcast as in NumPy.

    Returns:
        A float without unit; for batches an array of the batch's shape, float64.

    Raises:
        UsageError: Different m, or no real floating-point arrays on the CPU.
        NonFiniteError: NaN or Inf in an operand.

    Examples:
        >>> import numpy as np
        >>> from loragraft.linalg import chance_similarity, subspace_similarity
        >>> axes = np.eye(8)
        >>> subspace_similarity(axes[:, :4], axes[:, 2:6])
        0.5
        >>> chance_similarity(8, 4, 4)
        0.5
    """
    u1, u2 = matrices(U1, "U1"), matrices(U2, "U2")
    for name, basis in (("U1", u1), ("U2", u2)):
        if basis.shape[-1] > basis.shape[-2]:
            raise UsageError(
                f"{name} has shape {basis.shape}: expected at most as many orthonormal columns "
                "as rows"
            )
    if u1.shape[-2] != u2.shape[-2]:
        raise UsageError(
            f"U1 has shape {u1.shape} and U2 {u2.shape}: expected subspaces of one space, the "
            "same number of rows"
        )
    batch = common_batch([("U1", u1), ("U2", u2)])
    return _unstacked(
        native.subspace_similarity(
            stacked(u1, batch), stacked(u2, batch), native.resolve_threads(threads)
        ),
        batch,
    )


def chance_similarity(m: int, p: int, q: int) -> float:
    """Return the mean `subspace_similarity` of random subspaces, max(p, q) / m.

    E ‖U1ᵀ U2‖_F² = p q / m for subspaces of dimensions p and q drawn uniformly in m dimensions.

    Args:
        m: Dimension of the space.
        p: Dimension of one subspace, 1 to m.
        q: Dimension of the other, 1 to m.

    Raises:
        UsageError: A dimension out of range.

    Examples:
        >>> from loragraft.linalg import chance_similarity
        >>> chance_similarity(1024, 16, 64)
        0.0625
    """
    space = whole_number(m, "m", 1, _LONGEST)
    larger = max(whole_number(p, "p", 1, space), whole_number(q, "q", 1, space))
    return larger / space


def frobenius_similarity(
    X: SupportsDLPack | FactorPair, Y: SupportsDLPack | FactorPair, *, threads: int | None = None
) -> float | NDArray[np.float64]:
    """Measure the cosine of the angle between two updates, ⟨X, Y⟩_F / (‖X‖_F ‖Y‖_F).

    With factors, products stay small: ⟨B₁A₁, B₂A₂⟩ = tr((B₁ᵀB₂)(A₂A₁ᵀ)) and
    ⟨D, B A⟩ = ⟨Bᵀ D, A⟩; B A is never formed. Products and sums are in double precision.

    Args:
        X: Dense (..., m, n), or a tuple of factors (B (..., m, r), A (..., r, n)).
        Y: Dense or factors, as X; the two forms may be mixed.
        threads: To work with; None takes one per core. The result does not depend on it.

    Leading dimensions are a batch and broadcast as in NumPy.

    Returns:
        A float in [-1, 1]; for batches an array of the batch's shape, float64.

    Raises:
        UsageError: Shapes that do not fit, an operand of norm zero, or no real floating-point
            arrays on the CPU.
        NonFiniteError: NaN or Inf in an operand.

    Examples:
        >>> import numpy as np
        >>> from loragraft.linalg import frobenius_similarity
        >>> x = np.array([[1.0, 0.0], [0.0, 0.0]])
        >>> y = np.array([[3.0, 4.0], [0.0, 0.0]])
        >>> round(frobenius_similarity(x, y), 6)
        0.6
        >>> b, a = np.array([[1.0], [0.0]]), np.array([[3.0, 4.0]])
        >>> round(frobenius_similarity(x, (b, a)), 6)
        0.6
    """
    x, y = _operand(X, "X"), _operand(Y, "Y")
    if _product_shape(x) != _product_shape(y):
        raise UsageError(
            f"X is of shape {_product_shape(x)} and Y of {_product_shape(y)}: expected matrices "
            "of one shape"
        )
    batch = common_batch([("X", part) for part in x] + [("Y", part) for part in y])
    x, y = [stacked(part, batch) for part in x], [stacked(part, batch) for part in y]
    workers = native.resolve_threads(threads)
    cosine = _inner(x, y, workers) / (_norm(x, "X", workers) * _norm(y, "Y", workers))
    # Rounding may carry the cosine of parallel matrices beyond 1.
    return _unstacked(np.clip(cosine, -1.0, 1.0), batch)


def _operand(values: SupportsDLPack | FactorPair, name: str) -> _Operand:
    if isinstance(values, tuple):
        return list(factor_pair(values, name))
    return [matrices(values, name)]


def _product_shape(operand: _Operand) -> tuple[int, int]:
    return operand[0].shape[-2], operand[-1].shape[-1]


def _inner(x: _Operand, y: _Operand, threads: int) -> NDArray[np.float64]:
    if len(x) == 1 and len(y) == 1:
        return native.inner_product(x[0], y[0], threads)
    if len(x) == 1:
        return native.mixed_inner_product(x[0], y[0], y[1], threads)
    if len(y) == 1:
        return native.mixed_inner_product(y[0], x[0], x[1], threads)
    return native.factored_inner_product(x[0], x[1], y[0], y[1], threads)


def _norm(operand: _Operand, name: str, threads: int) -> NDArray[np.float64]:
    square = _inner(operand, operand, threads)
    floor = np.zeros_like(square)
    if len(operand) == 2:
        # The square of ‖B A‖ is a sum of terms as large as ‖B‖² ‖A‖². Where they cancel down to
        # their own rounding, gathered over the longest chain of additions, nothing is known of it.
        b, a = operand
        terms = b.shape[1] + a.shape[2] + b.shape[2] ** 2
        floor = native.inner_product(b, b, threads) * native.inner_product(a, a, threads)
        floor *= terms * _ROUNDOFF
    zero = np.flatnonzero(square <= floor)
    if zero.size:
        where = f" (matrix {int(zero[0])} of the batch)" if square.size > 1 else ""
        raise UsageError(
            f"{name}{where} has norm zero to working precision: its angle to another is undefined"
        )
    root: NDArray[np.float64] = np.sqrt(square)
    return root


def _unstacked(values: NDArray[np.float64], batch: tuple[int, ...]) -> float | NDArray[np.float64]:
    return values.reshape(batch) if batch else float(values[0])
