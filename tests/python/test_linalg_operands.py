"""What `loragraft.linalg` takes as an array, and how it refuses the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch

from loragraft import linalg
from loragraft.errors import NonFiniteError, UsageError
from spectra import normal, orthonormal

if TYPE_CHECKING:
    from collections.abc import Callable


def svd_bytes(a: Any) -> bytes:
    svd = linalg.truncated_svd(a, 2)
    return svd.U.tobytes() + svd.s.tobytes() + svd.Vt.tobytes()


def test_every_kind_of_float_array() -> None:
    a = normal(30, 20)
    expected = svd_bytes(a)
    frozen = a.copy()
    frozen.flags.writeable = False
    assert svd_bytes(frozen) == expected
    assert svd_bytes(np.asfortranarray(a)) == expected
    assert svd_bytes(np.repeat(a, 2, axis=0)[::2]) == expected
    assert svd_bytes(a[::-1][::-1]) == expected
    assert svd_bytes(a.astype(np.float64)) == expected
    assert svd_bytes(a.astype(">f4")) == expected
    unaligned = np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(np.float32).reshape(a.shape)
    assert not unaligned.flags.aligned
    assert svd_bytes(unaligned) == expected
    half = a.astype(np.float16)
    assert svd_bytes(half) == svd_bytes(half.astype(np.float32))
    # float64 is rounded, not cut off.
    fine = a.astype(np.float64) * (1 + 2.0**-26)
    assert svd_bytes(fine) == expected


def test_torch_tensors() -> None:
    a = normal(30, 20)
    expected = svd_bytes(a)
    tensor = torch.from_numpy(a.copy())
    assert svd_bytes(tensor) == expected
    assert svd_bytes(tensor.t().contiguous().t()) == expected
    assert svd_bytes(torch.stack([tensor, tensor], dim=-1)[..., 0]) == expected
    assert svd_bytes(tensor.double()) == expected
    assert svd_bytes(tensor.half()) == svd_bytes(a.astype(np.float16))
    assert svd_bytes(torch.nn.Parameter(tensor).detach()) == expected
    b, factor = tensor[:, :4], tensor[:4, :15]
    u, v = torch.linalg.qr(tensor)[0][:, :3], torch.linalg.qr(torch.from_numpy(normal(15, 3)))[0]
    assert isinstance(linalg.project((b, factor), u, v)[0], np.ndarray)
    assert linalg.frobenius_similarity(tensor, tensor) == pytest.approx(1.0, abs=2.0**-50)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: t.requires_grad_(), r"a: this Tensor cannot be read: .*detach"),
        (lambda t: t.bfloat16(), "a is bfloat16, which NumPy lacks: cast it to float32 first"),
        (lambda t: t.to(torch.int32), "a has dtype int32: expected float16, float32 or float64"),
        (lambda t: t.to(torch.complex64), "a has dtype complex64: expected float16"),
        (lambda t: t.to(torch.float8_e4m3fn), "a: this Tensor cannot be read: "),
        (lambda t: t.to_sparse(), "a: this Tensor cannot be read: "),
        (lambda t: t.to("meta"), "a: this Tensor cannot be read: .*meta"),
    ],
)
def test_torch_tensors_that_cannot_be_used(make: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        linalg.truncated_svd(make(torch.ones(4, 3)), 1)


class OnDevice:
    """What a tensor on an accelerator says of itself."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._array = normal(6, 5)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device, 1

    def __dlpack__(self, **options: Any) -> Any:
        assert self._device != 2, "memory of a GPU must not be asked for"
        return self._array.__dlpack__(**options)


def test_a_gpu_tensor_is_told_where_to_go() -> None:
    with pytest.raises(
        UsageError, match=r"lies on device type 2:1: expected one on the CPU.*\.cpu\(\)"
    ):
        linalg.truncated_svd(OnDevice(2), 1)


def test_any_exporter_on_the_cpu_will_do() -> None:
    assert svd_bytes(OnDevice(1)) == svd_bytes(normal(6, 5))


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_, np.complex64, ml_dtypes.bfloat16])
def test_dtypes_that_are_refused(dtype: Any) -> None:
    message = (
        f"^U1 has dtype {np.dtype(dtype)}: expected float16, float32 or float64, cast it first"
    )
    with pytest.raises(UsageError, match=message):
        linalg.subspace_similarity(np.ones((4, 2)).astype(dtype), np.ones((4, 2)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_entries_are_located(value: float) -> None:
    a = np.zeros((2, 4, 3), np.float32)
    a[1, 2, 0] = value
    a[1, 3, 0] = np.nan
    with pytest.raises(NonFiniteError, match=rf"^a\[1, 2, 0\] is {value}: finite"):
        linalg.truncated_svd(a, 1)
    with pytest.raises(NonFiniteError, match=r"^delta\[1\] \(A\)\[1, 2, 0\]"):
        linalg.project((np.ones((2, 5, 4)), a), np.ones((5, 1)), np.ones((3, 1)))


def test_overflow_is_no_result() -> None:
    with pytest.raises(NonFiniteError, match=r"^a\[0, 1\] = 1e\+39 is beyond the range of float32"):
        linalg.truncated_svd(np.array([[1.0, 1e39]]), 1)
    largest = np.full((40, 30), np.finfo(np.float32).max)
    with pytest.raises(NonFiniteError, match="singular values are beyond the range of float32"):
        linalg.truncated_svd(largest, 1)
    ones = np.full((40, 1), 40**-0.5), np.full((30, 1), 30**-0.5)
    with pytest.raises(NonFiniteError, match="projection is beyond the range of float32"):
        linalg.project(largest, *ones)


def test_inputs_are_not_modified() -> None:
    arrays = [normal(20, 10), orthonormal(20, 3), orthonormal(10, 4), normal(20, 2), normal(2, 10)]
    before = [array.tobytes() for array in arrays]
    delta, u, v, b, a = arrays
    linalg.truncated_svd(delta * np.float32(1e30), 2)
    linalg.truncated_svd(delta, 2)
    linalg.project(delta, u, v)
    linalg.project((b, a), u, v)
    linalg.subspace_similarity(u, u)
    linalg.frobenius_similarity(delta, (b, a))
    assert [array.tobytes() for array in arrays] == before


#: Keyword arguments of `truncated_svd` on a (6, 4) matrix, and the beginning of the complaint.
BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"rank": 0}, "rank 0: expected 1 to 4"),
    ({"rank": 5}, "rank 5: expected 1 to 4"),
    ({"rank": -1}, "rank -1: expected 1 to 4"),
    ({"rank": 1.5}, "rank 1.5: expected an integer"),
    ({"rank": 2**70}, f"rank {2**70}: expected 1 to 4"),
    ({"rank": 1, "oversampling": -1}, "oversampling -1: expected 0 to"),
    ({"rank": 1, "power_iterations": -1}, "power_iterations -1: expected 0 to"),
    ({"rank": 1, "seed": -1}, "seed -1: expected 0 to"),
    ({"rank": 1, "seed": 2**64}, f"seed {2**64}: expected 0 to"),
    ({"rank": 1, "threads": 0}, ".*threads 0: expected 1"),
    ({"rank": 1, "a": np.ones(4)}, r"a has shape \(4,\): expected \(..., m, n\)"),
    ({"rank": 1, "a": np.ones((0, 4))}, r"a has shape \(0, 4\): expected"),
    ({"rank": 1, "a": [[1.0]]}, "a is a list: expected a NumPy array"),
]
#: Operation, shapes of its arguments (a list stands for factors), and the complaint.
BAD_SHAPES: list[tuple[Any, list[Any], str]] = [
    (linalg.project, [(6, 4), (5, 1), (4, 1)],
     r"U has shape \(5, 1\): expected 6 rows to fit delta \(..., 6, 4\)"),
    (linalg.project, [(6, 4), (6, 1), (3, 1)], r"V has shape \(3, 1\): expected 4 rows"),
    (linalg.project, [(6, 4), (6, 7), (4, 1)], r"U has shape \(6, 7\): expected .* at most"),
    (linalg.project, [[(6, 4), (6, 4)], (6, 1), (4, 1)],
     r"delta: B \(6, 4\) and A \(6, 4\) cannot be multiplied"),
    (linalg.project, [[(6, 4)], (6, 1), (4, 1)],
     r"delta is a tuple of 1: expected the two factors \(B, A\)"),
    (linalg.project, [(2, 6, 4), (3, 6, 1), (4, 1)],
     r"batch dimensions do not fit .* delta \(2, 6, 4\), U \(3, 6, 1\), V \(4, 1\)"),
    (linalg.subspace_similarity, [(6, 4), (5, 2)],
     r"U1 has shape \(6, 4\) and U2 \(5, 2\): expected subspaces of one space"),
    (linalg.subspace_similarity, [(6, 4), (6, 9)], r"U2 has shape \(6, 9\): expected at most"),
    (linalg.frobenius_similarity, [(6, 4), (4, 6)],
     r"X is of shape \(6, 4\) and Y of \(4, 6\): expected matrices of one shape"),
    (linalg.frobenius_similarity, [[(6, 4), (4, 6)], (6, 4)],
     r"X is of shape \(6, 6\) and Y of \(6, 4\)"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        linalg.truncated_svd(**{"a": np.ones((6, 4)), **options})


@pytest.mark.parametrize(("operation", "shapes", "message"), BAD_SHAPES)
def test_shapes_that_do_not_fit(operation: Any, shapes: list[Any], message: str) -> None:
    arguments = [
        tuple(np.ones(s) for s in shape) if isinstance(shape, list) else np.ones(shape)
        for shape in shapes
    ]
    with pytest.raises(UsageError, match=f"^{message}"):
        operation(*arguments)


@pytest.mark.parametrize(
    ("m", "p", "q", "message"), [(0, 1, 1, "m 0"), (8, 9, 1, "p 9"), (8, 1, 0, "q 0")]
)
def test_dimensions_of_chance(m: int, p: int, q: int, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}: expected 1 to"):
        linalg.chance_similarity(m, p, q)
