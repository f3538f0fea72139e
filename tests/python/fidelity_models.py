"""A tiny base, its tuned model and adapters, and what plain float64 makes of their logits."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import asked_models as made
from loragraft.evaluation.candidate import Candidate, Kind
from loragraft.evaluation.fidelity import measure_fidelity
from loragraft.evaluation.machine import Numbers
from loragraft.evaluation.subject import open_subject
from loragraft.evaluation.text import FidelityText

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from loragraft.evaluation.fidelity_row import FidelityRow
    from loragraft.evaluation.subject import Subject

FLOAT32 = Numbers("float32", "cpu", "")
EPS = float(np.finfo(np.float32).eps)
TEXT = FidelityText("a text", " ".join(f"{n} candles burn, and {n * n} go out;" for n in range(30)))


def subject(directory: Path, *adapters: Candidate) -> Subject:
    return open_subject(directory, adapters, FLOAT32, 1)


def merged(base: Path, adapter: Path, directory: Path) -> Path:
    shutil.copytree(base, directory)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    model.merge_and_unload().save_pretrained(directory)
    return directory


class Case(NamedTuple):
    base: Path
    tuned: Path
    right: Candidate
    other: Candidate
    idle: Candidate

    @property
    def adapters(self) -> tuple[Candidate, ...]:
        return self.right, self.other, self.idle


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    place = tmp_path_factory.mktemp("fidelity")
    base = made.save_model(place / "base")
    right = made.save_adapter(place / "right")
    return Case(
        base,
        merged(base, right, place / "tuned"),
        Candidate("right", Kind.ADAPTER, right),
        Candidate("other", Kind.CONTROL, made.save_adapter(place / "other", seed=7)),
        Candidate("idle", Kind.ADAPTER, made.save_adapter(place / "idle", scale=0.0)),
    )


@pytest.fixture(scope="module")
def rows(case: Case) -> tuple[FidelityRow, ...]:
    base, tuned = subject(case.base, *case.adapters), subject(case.tuned)
    return measure_fidelity(base, tuned, case.adapters, TEXT, window=64)


def exact(logits: torch.Tensor, others: torch.Tensor) -> tuple[Any, Any, Any]:
    logs, found = (one.double().log_softmax(-1).numpy() for one in (logits, others))
    return (np.exp(logs) * (logs - found)).sum(-1), logs, found


def plain(directory: Path, adapter: Path | None, windows: Sequence[Sequence[int]]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(directory)
    model = model if adapter is None else PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return torch.cat([model(torch.tensor([ids])).logits[0, :-1] for ids in windows])
