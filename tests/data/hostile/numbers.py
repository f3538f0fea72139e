"""Numbers that cannot be computed with, in weights and in factors."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from hostile import toy
from hostile.case import ADAPTER, CHECKPOINT, Case

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_KIND: Final = "number"
_CODES: Final = {"NaN": 0x7FC1, "a signalling NaN": 0x7F81, "Inf": 0x7F80, "-Inf": 0xFF80}
#: Number 17 of 12 columns.
_PLACE: Final = (1, 5)


def spoilt(tensor: toy.Tensor, code: int, place: int) -> toy.Tensor:
    """A tensor of 16-bit numbers with another one in one place."""
    dtype, shape, data = tensor
    return dtype, shape, data[: 2 * place] + code.to_bytes(2, "little") + data[2 * place + 2 :]


def _weights(name: str, code: int, directory: Path) -> None:
    found = toy.tensors(1)
    found[name] = spoilt(found[name], code, 17 if len(found[name][1]) > 1 else 5)
    toy.write_checkpoint(directory, found)


def _factors(side: str, code: int, directory: Path) -> None:
    found = toy.factors()
    name = f"base_model.model.{toy.Q0}.lora_{side}.weight"
    found[name] = spoilt(found[name], code, 3)
    toy.write_adapter(directory, found)


def _scaled(alpha: float, directory: Path) -> None:
    toy.write_adapter(directory, config=toy.adapter_config(lora_alpha=alpha))


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for what, code in _CODES.items():
        kind = "NaN" if "NaN" in what else "Inf"
        at = f"{kind} at [{_PLACE[0]}, {_PLACE[1]}]"
        commands = (CHECKPOINT[1], CHECKPOINT[2], CHECKPOINT[3], CHECKPOINT[4])
        make = partial(_weights, f"{toy.Q0}.weight", code)
        yield Case(_KIND, f"{what} in a weight", make, commands, (6,), says=at)
        make = partial(_weights, f"{toy.Q0}.weight", code)
        yield Case(_KIND, f"{what} in a weight, compared", make, CHECKPOINT[5:], (6,), says=at)
        make = partial(_weights, "model.norm.weight", code)
        verified = (CHECKPOINT[1], CHECKPOINT[3])
        yield Case(_KIND, f"{what} in a norm", make, verified, (6,), says=f"{kind} at [5]")
        for side, place in (("A", "[0, 3]"), ("B", "[1, 1]")):
            make = partial(_factors, side, code)
            said = f"{kind} at {place}"
            yield Case(_KIND, f"{what} in lora_{side}", make, ADAPTER[1:], (6,), says=said)
            yield Case(_KIND, f"{what} in lora_{side}, shown", make, ADAPTER[:1], (0,))
    for alpha in (1e308, 3e38, -1e300):
        make = partial(_scaled, alpha)
        yield Case(_KIND, f"alpha {alpha:g}", make, ADAPTER[1:3], (6,), says="overflow")
