"""`export`: an adapter in another program's format."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from loragraft import system_calls
from loragraft.adapter.gguf.file import dtype_of, scale_of, write_gguf
from loragraft.adapter.gguf.pairing import pair_up
from loragraft.adapter.gguf.reading import read_gguf_adapter
from loragraft.adapter.peft import read_adapter
from loragraft.adapter.peft_config import CONFIG_FILE, GGUF_FILE, TENSORS_FILE
from loragraft.adapter.placement import place_adapter
from loragraft.adapter.restored import kinds_of
from loragraft.architecture.modules import take_inventory
from loragraft.atomic_file import write_text_atomic
from loragraft.checkpoint import open_checkpoint
from loragraft.destination import Destination, check_destination
from loragraft.documents import dump, retire
from loragraft.errors import MismatchError, NothingToAdaptError, UsageError
from loragraft.exporting.card import export_card
from loragraft.exporting.gguf_source import GgufSource
from loragraft.exporting.peft_output import PeftOutput
from loragraft.exporting.peft_source import PeftSource
from loragraft.ggml.header import is_gguf
from loragraft.tensor_reader import TensorReader
from loragraft.wording import counted, listed, shown

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from loragraft.architecture.modules import Inventory
    from loragraft.checkpoint import Checkpoint
    from loragraft.exporting.matrix_factors import FactorSource

FORMATS: Final = ("gguf", "peft", "peft-legacy", "per-expert")
_DTYPES: Final = {"auto": "auto", "bf16": "BF16", "fp16": "F16", "fp32": "F32"}
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Export:
    """What `export` wrote.

    Attributes:
        output: The directory, or the GGUF file.
        format: What it is.
        modules: Modules of PEFT's, or pairs of a GGUF.
        bytes_written: Size of the tensor file.
        dtypes: What factors are stored in -> how many modules or pairs.
        alpha: The one alpha of a GGUF, 0 for none; None for PEFT.
        folded: Scalings that one alpha cannot tell are in B.
        left_out: What the format has no place for -> why.
        seconds: Wall time.
    """

    output: Path
    format: str
    modules: int
    bytes_written: int
    dtypes: Mapping[str, int]
    alpha: float | None
    folded: bool
    left_out: Mapping[str, str]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return {
            "command": "export",
            "output": str(self.output),
            "format": self.format,
            "modules": self.modules,
            "bytes_written": self.bytes_written,
            "dtypes": dict(self.dtypes),
            "alpha": self.alpha,
            "folded": self.folded,
            "left_out": dict(self.left_out),
            "seconds": self.seconds,
        }


def export(
    adapter: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str],
    format: str = "gguf",  # noqa: A002 -- the option's name
    dtype: str = "auto",
    fused_experts: bool = False,
    skip_unsupported: bool = False,
    force: bool = False,
) -> Export:
    """Write an adapter in another format.

    Args:
        adapter: Directory of a PEFT adapter, or the GGUF file of one.
        output: A directory; for ``gguf`` also a file that ends with ``.gguf``.
        base: The model that it is for: names and shapes are read, and no weights. A GGUF of any
            quantisation will do.
        format: ``gguf`` (llama.cpp), ``peft`` (0.19.1 and later), ``peft-legacy`` (up to 0.18) or
            ``per-expert`` (a module for every expert).
        dtype: Of the factors: ``auto`` keeps every number as it is.
        fused_experts: For ``gguf``: the base's file has gate and up of experts in one tensor.
        skip_unsupported: Leave out what the format has no place for, and tell; else it is an error.
        force: Replace what is in ``output``.

    Raises:
        FormatError: A file cannot be read or written, or is malformed.
        MismatchError: The adapter does not fit the base, the base's family is not proven, or the
            format has no place for a part of the adapter.
        MissingDependencyError: The package ``gguf`` is missing.
        NonFiniteError: A factor holds NaN or Inf.
        NothingToAdaptError: Nothing is left to write.
        UsageError: An option that cannot be used, or an ``output`` that exists.
    """
    started = time.perf_counter()
    if format not in FORMATS:
        raise UsageError(f"--format {format}: expected {', '.join(FORMATS)}")
    if dtype not in _DTYPES:
        raise UsageError(f"--dtype {dtype}: expected {', '.join(_DTYPES)}")
    job = _Job(Path(adapter), Path(output), _DTYPES[dtype], skip_unsupported, force, started)
    checkpoint = open_checkpoint(base, gguf=True, skeleton=True)
    if format == "gguf":
        return job.to_gguf(checkpoint, fused_experts=fused_experts)
    return job.to_peft(checkpoint, format)


@dataclass(frozen=True, slots=True)
class _Job:
    adapter: Path
    output: Path
    dtype: str
    lenient: bool
    force: bool
    started: float

    def to_gguf(self, base: Checkpoint, *, fused_experts: bool) -> Export:
        if is_gguf(self.adapter):
            raise UsageError(f"{shown(self.adapter)}: is a GGUF already; choose --format peft")
        lora = read_adapter(self.adapter)
        placed = place_adapter(lora, base)
        pairing = pair_up(placed, base, fused_experts=fused_experts)
        left_out = pairing.refused | dict.fromkeys(
            sorted(lora.other_tensors), "llama.cpp's adapters hold factors alone"
        )
        self._check(left_out, len(pairing.pairs), dict(kinds_of(lora)))
        is_file = self.output.suffix == ".gguf"
        directory = self.output.parent if is_file else self.output
        target = self.output if is_file else directory / GGUF_FILE
        if is_file:
            self._check_file(target, base)
        else:
            check_destination(directory, [lora.directory, base.directory], force=self.force)
        with Destination(directory) as destination:
            # Replaced as a whole: should a factor be broken, what was there stays.
            name = lora.directory.resolve().name
            size = write_gguf(target, pairing, name=name, dtype=self.dtype)
            if not is_file:
                self._retire(destination, keep=GGUF_FILE)
        scale = scale_of(pairing.pairs)
        dtypes = [dtype_of(pair, scale, self.dtype) for pair in pairing.pairs]
        return self._result(target, "gguf", dtypes, size, left_out, scale.alpha, scale.folded)

    def to_peft(self, base: Checkpoint, layout: str) -> Export:
        with TensorReader() as reader:
            inventory = take_inventory(base, layout)
            source, left_out, inputs = self._source(base, inventory, reader)
            output = PeftOutput(source, base, inventory, layout)
            unknown = "no module of the base is called so"
            left_out |= dict.fromkeys(source.unused(), unknown)
            self._check(left_out, len(output.modules), {})
            check_destination(self.output, inputs, force=self.force)
            with Destination(self.output, self.force) as destination:
                self._retire(destination)
                size = output.write(destination, self.dtype)
                config = output.config()
                card = export_card(self.adapter, config, layout)
                write_text_atomic(destination.file("README.md"), card)
                write_text_atomic(destination.file(CONFIG_FILE), dump(config))
        dtypes = [module.dtype if self.dtype == "auto" else self.dtype for module in output.modules]
        folded = any(module.folded for module in output.modules)
        return self._result(self.output, layout, dtypes, size, left_out, None, folded)

    def _source(
        self, base: Checkpoint, inventory: Inventory, reader: TensorReader
    ) -> tuple[FactorSource, dict[str, str], list[Path]]:
        if is_gguf(self.adapter):
            gguf = read_gguf_adapter(self.adapter)
            why = "llama.cpp ignores it too"
            ignored = {entry.name: why for entry in gguf.ignored}
            source = GgufSource(gguf, base, inventory, reader)
            return source, ignored, [self.adapter.parent, base.directory]
        lora = read_adapter(self.adapter)
        why = "only factors are laid out anew"
        left_out = dict.fromkeys(sorted(lora.other_tensors), why)
        peft = PeftSource(place_adapter(lora, base), base, reader)
        return peft, left_out, [lora.directory, base.directory]

    def _retire(self, destination: Destination, keep: str = "") -> None:
        """Remove an adapter that is replaced, in whatever format it is."""
        retire(destination, keep)
        system_calls.remove(destination.directory / TENSORS_FILE)

    def _check_file(self, target: Path, base: Checkpoint) -> None:
        if target.resolve() in {shard.resolve() for shard in base.shards}:
            raise UsageError(f"{shown(target)}: is the base; choose another name")
        if target.exists() and not self.force:
            raise UsageError(f"{shown(target)}: exists; choose another name, or --force")

    def _check(self, left_out: Mapping[str, str], kept: int, kinds: Mapping[str, int]) -> None:
        if left_out and not self.lenient:
            name, why = next(iter(left_out.items()))
            more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
            carried = f"; the adapter carries {listed(list(kinds)[:_SHOWN])}" if kinds else ""
            raise MismatchError(
                f"{shown(self.adapter)}: {name}{more} cannot be written: {why}{carried};"
                " --skip-unsupported leaves out what has no place"
            )
        if not kept:
            raise NothingToAdaptError(
                f"{shown(self.adapter)}: nothing is left to write of"
                f" {counted(len(left_out), 'module')}"
            )

    def _result(
        self,
        output: Path,
        format_name: str,
        dtypes: list[str],
        size: int,
        left_out: Mapping[str, str],
        alpha: float | None,
        folded: bool,
    ) -> Export:
        counts = {code: dtypes.count(code) for code in sorted(set(dtypes))}
        seconds = time.perf_counter() - self.started
        return Export(
            output, format_name, len(dtypes), size, counts, alpha, folded, left_out, seconds
        )
