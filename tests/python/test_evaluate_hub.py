"""Adapters that ``loragraft evaluate`` takes from the Hub, or from its local cache."""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING, Any

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import constants

import asked_models as made
from command_line import CommandLine, loragraft

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["loragraft"]

ID = "some-owner/an-adapter"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("asked")
    made.save_model(place / "model")
    made.save_adapter(place / "mine")
    made.write_questions(place / "few.jsonl", 2)
    return place


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""

    def fail(*_: Any, **__: Any) -> None:
        raise httpx2.ConnectError("[Errno -2] Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def arguments(place: Path, *more: object) -> tuple[object, ...]:
    asked = ("--task", f"few={place / 'few.jsonl'}", "--dtype", "fp32")
    return ("evaluate", place / "model", *asked, "-o", "out", *more)


@pytest.mark.parametrize("option", ["--adapter", "--control"])
@pytest.mark.parametrize("revision", ["", "@v2"])
def test_what_cannot_be_had_is_told_at_once(
    loragraft: CommandLine, place: Path, tmp_path: Path, option: str, revision: str
) -> None:
    started = time.perf_counter()
    answer = loragraft(*arguments(place, option, f"mine={ID}{revision}"))
    assert time.perf_counter() - started < 5
    assert answer.code == 3
    assert answer.error.startswith(f"{ID}{revision}: no path here, and as a Hub id: not in the")
    assert "the Hub cannot be reached (ConnectError: [Errno -2] Name or service" in answer.error
    assert f"hf download {ID}" in answer.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", ["./some-owner/an-adapter", "../an-adapter", "an-adapter"])
def test_a_path_that_is_not_there_is_no_id(loragraft: CommandLine, place: Path, path: str) -> None:
    answer = loragraft(*arguments(place, "--adapter", f"mine={path}"))
    assert answer.code == 3
    assert f"'{path}': no such file or directory, and no Hub id either" in answer.error
    assert "expected the directory of a PEFT adapter, or owner/name[@revision]" in answer.error


def test_a_cached_adapter_is_as_good_as_its_files(
    loragraft: CommandLine, place: Path, cache: Path, tmp_path: Path
) -> None:
    commit = "b" * 40
    repository = cache / "models--some-owner--an-adapter"
    shutil.copytree(place / "mine", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text(commit)
    both = ("--adapter", f"hub={ID}@v2", "--adapter", f"mine={place / 'mine'}")
    answer = loragraft(*arguments(place, *both))
    assert answer.code == 0, answer.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [one["path"] for one in report["candidates"][1:]] == [f"{ID}@v2", str(place / "mine")]
    assert report["inputs"]["candidates"]["hub"] == f"{ID}@v2"
    lines = (tmp_path / "out" / "items.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    found = {
        name: [row["log_likelihoods"] for row in rows if row.get("candidate") == name]
        for name in ("base", "hub", "mine")
    }
    assert len(found["hub"]) == 2
    assert found["hub"] == found["mine"] != found["base"]
    # The same content by the same name is gone on with, wherever it lies.
    here = ("--adapter", f"hub={place / 'mine'}", "--resume")
    assert loragraft(*arguments(place, *here)).code == 0
