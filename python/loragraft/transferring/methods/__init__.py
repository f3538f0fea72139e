"""One file for each way to align the spaces of two models; `METHODS` has them by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loragraft.errors import UsageError
from loragraft.transferring.methods.activations import Activations
from loragraft.transferring.methods.copy import Copy
from loragraft.transferring.methods.cross_lora import CrossLora
from loragraft.transferring.methods.lora_x import LoraX
from loragraft.transferring.methods.padded_copy import PaddedCopy
from loragraft.transferring.methods.prolora import ProLora
from loragraft.transferring.methods.shared_vocab import SharedVocab
from loragraft.wording import quoted

if TYPE_CHECKING:
    from loragraft.transferring.methods.method import Method, WholeMethod

AUTO: Final = "auto"
PADDED_COPY: Final = PaddedCopy.name
METHODS: Final[dict[str, Method]] = {
    method.name: method for method in (Copy(), LoraX(), CrossLora(), ProLora(), PaddedCopy())
}
#: Those that look at both models as a whole, before the first pair.
WHOLE_METHODS: Final[dict[str, WholeMethod]] = {
    method.name: method for method in (SharedVocab(), Activations())
}
#: It maps no module: it puts what the adapter does into modules of its own choice.
DISTILL: Final = "distill"
#: Those that run both models on calibration texts.
CALIBRATED: Final = (*(name for name, one in WHOLE_METHODS.items() if one.calibrated), DISTILL)
#: What `--method` takes; the padded copy is a control, not a way to transfer.
CHOICES: Final = (AUTO, *(name for name in METHODS if name != PADDED_COPY), *WHOLE_METHODS, DISTILL)


def require_method(name: str, *, calibrated: bool = False) -> None:
    """Refuse what is no method, or lacks what it needs.

    Args:
        name: The method.
        calibrated: There are calibration texts.

    Raises:
        UsageError: No such method, or none with or without texts.
    """
    if name not in CHOICES:
        raise UsageError(f"--method {quoted(name)}: expected one of {', '.join(CHOICES)}")
    if calibrated == (name in CALIBRATED) or name == AUTO:
        return
    if calibrated:
        users = " or ".join(f"--method {one}" for one in (*CALIBRATED, AUTO))
        raise UsageError(
            f"--calibration: --method {name} runs no model and uses no texts: leave it out, or take"
            f" {users}"
        )
    raise UsageError(
        f"--method {name}: runs both models on a few hundred texts: name them with"
        " --calibration FILE"
    )
