"""One file for each way to align the spaces of two models; `METHODS` has them by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loragraft.errors import UsageError
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
WHOLE_METHODS: Final[dict[str, WholeMethod]] = {SharedVocab.name: SharedVocab()}
#: What `--method` takes; the padded copy is a control, not a way to transfer.
CHOICES: Final = (AUTO, *(name for name in METHODS if name != PADDED_COPY), *WHOLE_METHODS)
#: Known, and not in this version.
_COMING: Final = ("activations", "distill")


def require_method(name: str) -> None:
    """Refuse what is no method.

    Raises:
        UsageError: No such method, or none of this version.
    """
    if name in _COMING:
        raise UsageError(
            f"--method {name}: is not in this version; expected one of {', '.join(CHOICES)}"
        )
    if name not in CHOICES:
        raise UsageError(f"--method {quoted(name)}: expected one of {', '.join(CHOICES)}")
