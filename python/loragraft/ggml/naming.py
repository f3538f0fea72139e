"""ggml's names for the modules of a model, from the tables of the package ``gguf``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from loragraft.errors import MissingDependencyError
from loragraft.ggml.family import text_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loragraft.ggml.family import GgmlFamily

#: The most blocks of a model; a table is made for as many where config.json does not tell.
MOST_BLOCKS: Final = 1024
#: In models that also see or hear, what the language model's modules are called.
_INNER: Final = "language_model."


def require_gguf(what: str) -> Any:
    """Return the package ``gguf``.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import gguf  # noqa: PLC0415 -- only who wants GGUF needs it
    except ImportError:
        raise MissingDependencyError(
            f"{what} needs the package gguf: pip install 'loragraft[gguf]'"
        ) from None
    return gguf


class GgmlNames:
    """Names of modules in memory, such as ``model.layers.0.mlp.up_proj``, as ggml has them."""

    def __init__(self, family: GgmlFamily, config: Mapping[str, Any] | None) -> None:
        """Make the table.

        Raises:
            MissingDependencyError: The package ``gguf`` is missing, or too old for the family.
        """
        gguf = require_gguf("GGUF")
        codes = {name: code for code, name in gguf.MODEL_ARCH_NAMES.items()}
        if family.arch not in codes:
            raise MissingDependencyError(
                f"the installed package gguf does not know {family.arch}: pip install -U gguf"
            )
        blocks = text_config(config).get("num_hidden_layers")
        if type(blocks) is not int or not 0 < blocks <= MOST_BLOCKS:
            blocks = MOST_BLOCKS
        self._table = gguf.get_tensor_name_map(codes[family.arch], blocks)

    def of(self, module: str) -> str | None:
        """Return the name of a module's weight without ``.weight``; None where ggml has none."""
        plain = module.replace(_INNER, "", 1)
        found = self._table.get_name(plain)
        return found if isinstance(found, str) else None
