"""What is to be evaluated, and how: read from texts, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from loragraft.checkpoint import local_path
from loragraft.errors import FormatError, UsageError
from loragraft.evaluation.candidate import BASE, Candidate, Kind
from loragraft.wording import listed, quoted, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: What torch calls the numbers to compute with; None where the machine decides.
_DTYPES: Final = {
    "auto": None,
    "fp32": "float32",
    "float32": "float32",
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
}
#: What `transfer --controls` adds to the name of an adapter's directory.
_CONTROLS: Final = ("padded-copy", "random", "shuffled")
_ADAPTER_CONFIG: Final = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """Options of an evaluation.

    Attributes:
        candidates: The adapters, controls and whole models, in the order in which they are shown.
        oracle: Name of the one that has all there is to gain; None for none.
        tasks: Names of tasks, or ``NAME=FILE.jsonl``.
        data: Directory of the local tasks.
        limit: Questions of each task; None for all.
        batch_size: Questions run at once; None to go by the memory.
        dtype: ``float32``, ``bfloat16``, or None for what the machine does faster.
        threads: None for as many as torch takes.
        seed: Of the resampling that intervals come from.
        fidelity: The tuned model that the adapters are to come near to; None for no such figures.
        text: File that it is measured on; None for the text that the package has.
    """

    candidates: tuple[Candidate, ...]
    oracle: str | None = None
    tasks: tuple[str, ...] = ("arc_challenge",)
    data: Path | None = None
    limit: int | None = None
    batch_size: int | None = None
    dtype: str | None = None
    threads: int | None = None
    seed: int = 0
    fidelity: str | None = None
    text: Path | None = None

    def __post_init__(self) -> None:
        names = [BASE, *(one.name for one in self.candidates)]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(
                    f"the name {quoted(name)} is given twice"
                    f"{' (the model alone is called so)' if name == BASE else ''}: choose another"
                )
        if self.oracle is not None and self.oracle not in names[1:]:
            raise UsageError(
                f"--oracle {quoted(self.oracle)}: is none of {listed(names[1:]) or 'those given'};"
                " name an --adapter or a --model"
            )
        if self.text is not None and self.fidelity is None:
            raise UsageError(
                "--text is read for --fidelity TUNED alone: give that, or leave it out"
            )
        if self.fidelity is not None and all(one.kind is Kind.MODEL for one in self.candidates):
            raise UsageError("--fidelity compares adapters of MODEL with TUNED: give an --adapter")
        for option, value in (
            ("--limit", self.limit),
            ("--batch-size", self.batch_size),
            ("--threads", self.threads),
        ):
            if value is not None and value < 1:
                raise UsageError(f"{option} {value}: expected 1 or more")

    @classmethod
    def read(
        cls,
        *,
        adapters: Mapping[str, str],
        models: Mapping[str, str],
        controls: Mapping[str, str],
        find_controls: bool = False,
        batch_size: int | str = "auto",
        dtype: str = "auto",
        tasks: Sequence[str] = (),
        oracle: str | None = None,
        data: Path | None = None,
        limit: int | None = None,
        threads: int | None = None,
        seed: int = 0,
        fidelity: str | None = None,
        text: Path | None = None,
    ) -> EvaluateOptions:
        """Read options as users write them.

        Raises:
            UsageError: One cannot be used.
            FormatError: A directory holds no adapter, or it cannot be had from the Hub.
        """
        if dtype not in _DTYPES:
            raise UsageError(f"--dtype {quoted(dtype)}: expected auto, fp32 or bf16")
        candidates = _adapters(adapters, controls, find_controls=find_controls)
        whole = [Candidate(name, Kind.MODEL, Path(given), given) for name, given in models.items()]
        return cls(
            candidates=(*candidates, *whole),
            oracle=oracle,
            tasks=tuple(tasks) or (() if fidelity is not None else ("arc_challenge",)),
            data=data,
            limit=limit,
            batch_size=_batch_size(batch_size),
            dtype=_DTYPES[dtype],
            threads=threads,
            seed=seed,
            fidelity=fidelity,
            text=text,
        )

    def to_json(self, model: str) -> dict[str, Any]:
        """Return what a run was given, as plain data.

        Args:
            model: The base, as the user called it.
        """
        return {
            "model": model,
            "candidates": {one.name: one.given for one in self.candidates},
            "oracle": self.oracle,
            "tasks": list(self.tasks),
            "data": None if self.data is None else str(self.data),
            "limit": self.limit,
            "batch_size": self.batch_size,
            "dtype": self.dtype,
            "seed": self.seed,
            "fidelity": self.fidelity,
            "text": None if self.text is None else str(self.text),
        }


def named_paths(option: str, texts: Iterable[str]) -> dict[str, str]:
    """Read ``NAME=PATH`` texts, where a path may be a Hub id.

    Raises:
        UsageError: One has another form, or a name comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not name.strip() or not path:
            raise UsageError(
                f"{option} {quoted(text)}: expected NAME=PATH, such as mine={quoted(text)[1:-1]}"
            )
        if name in found:
            raise UsageError(f"{option} {quoted(text)}: the name {quoted(name)} is given twice")
        found[name] = path
    return found


def _adapters(
    adapters: Mapping[str, str], controls: Mapping[str, str], *, find_controls: bool
) -> list[Candidate]:
    """Return the candidates that are adapters of the base."""
    found = [_adapter(name, Kind.ADAPTER, given) for name, given in adapters.items()]
    found += [_adapter(name, Kind.CONTROL, given) for name, given in controls.items()]
    if find_controls:
        found += _beside(found)
    for one in found:
        _require_adapter(one)
    return found


def _adapter(name: str, kind: Kind, reference: str) -> Candidate:
    return Candidate(name, kind, local_path(reference, adapter=True), reference)


def _beside(known: Sequence[Candidate]) -> list[Candidate]:
    """Return the controls that `transfer` wrote beside adapters.

    Raises:
        UsageError: There is none.
    """
    given = {one.path.resolve() for one in known}
    pairs = [
        Candidate(f"{one.name}-{what}", Kind.CONTROL, one.path.with_name(f"{one.path.name}-{what}"))
        for one in known
        if one.kind is Kind.ADAPTER
        for what in _CONTROLS
    ]
    found = [one for one in pairs if one.path.is_dir() and one.path.resolve() not in given]
    if not any(one.path.is_dir() for one in pairs):
        raise UsageError(
            f"--controls: no adapter has a directory beside it that ends in {listed(_CONTROLS)},"
            " as transfer --controls writes them; name others with --control NAME=PATH"
        )
    return found


def _require_adapter(one: Candidate) -> None:
    if not (one.path / _ADAPTER_CONFIG).is_file():
        raise FormatError(
            f"{shown(one.path)}: holds no adapter, for it has no {_ADAPTER_CONFIG}: give the"
            " directory of a PEFT adapter, or --model NAME=PATH for a whole model"
        )


def _batch_size(value: int | str) -> int | None:
    if value == "auto":
        return None
    try:
        return int(value)
    except ValueError:
        raise UsageError(
            f"--batch-size {quoted(value)}: expected auto or a number of questions"
        ) from None
