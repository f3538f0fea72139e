"""Layer maps, and what they refuse."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import transfer_files as made
from extraction_checks import refused
from loragraft import transfer
from loragraft.errors import FormatError, LoragraftError, MismatchError, UsageError
from loragraft.transferring.layers import identity, order_preserving, proportional

if TYPE_CHECKING:
    from pathlib import Path


def test_identity_and_proportional() -> None:
    assert identity(3, 5) == {0: 0, 1: 1, 2: 2}
    assert identity(5, 3) == {0: 0, 1: 1, 2: 2}
    assert proportional(4, 6) == {0: 0, 1: 1, 2: 1, 3: 2, 4: 2, 5: 3}
    assert proportional(6, 4) == {0: 0, 1: 2, 2: 3, 3: 5}
    assert proportional(5, 1) == {0: 0}
    assert proportional(1, 3) == {0: 0, 1: 0, 2: 0}
    for count in (1, 2, 7):
        assert proportional(count, count) == identity(count, count)


@pytest.mark.parametrize("shape", [(3, 3), (5, 3), (3, 5), (1, 3), (3, 1), (4, 6)])
def test_the_assignment_is_the_best_that_keeps_the_order(shape: tuple[int, int]) -> None:
    sources, targets = shape
    for seed in range(5):
        excess = np.random.default_rng(seed).standard_normal(shape)
        found = order_preserving(excess)
        assert list(found) == list(range(targets))
        best = max(
            sum(excess[s, t] for t, s in enumerate(choice))
            for choice in itertools.product(range(sources), repeat=targets)
            if _keeps_order(choice, sources)
        )
        assert _keeps_order(tuple(found.values()), sources)
        # Ties are broken by 1e-9 a layer.
        assert sum(excess[s, t] for t, s in found.items()) >= best - 1e-9 * sources * targets


def _keeps_order(choice: tuple[int, ...], sources: int) -> bool:
    if list(choice) != sorted(choice):
        return False
    return (
        set(choice) == set(range(sources))
        if len(choice) > sources
        else (len(set(choice)) == len(choice))
    )


def test_without_evidence_the_assignment_is_proportional() -> None:
    for sources, targets in ((4, 6), (6, 4), (5, 5)):
        assert order_preserving(np.zeros((sources, targets))) == proportional(sources, targets)


def test_similarity_finds_the_layers_that_were_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAGRAFT_CACHE", str(tmp_path / "cache"))
    source = made.llama(tmp_path / "S", seed=1, depth=6)
    target = made.without_layers(source, tmp_path / "T", {1, 2})
    adapter = made.adapter(tmp_path / "A", source)
    result = transfer(adapter, source, target, tmp_path / "out", subspace_rank=16)
    assert result.report.summary.layer_map == "similarity"
    assert result.report.layers == {0: 0, 1: 3, 2: 4, 3: 5}
    assert {row.method for row in result.report.modules} == {"copy"}
    (lost,) = result.report.filters
    assert lost.option == "--layer-map similarity"
    assert lost.modules == 14


@pytest.mark.parametrize(
    ("text", "kind", "pattern"),
    [
        ('{"0": 9}', UsageError, "no source layer 9"),
        ('{"9": 0}', UsageError, "no target layer 9"),
        ('{"x": 0}', FormatError, "'x' is no layer"),
        ('{"0": true}', FormatError, "True is no layer"),
        ('{"0": 1.5}', FormatError, "1.5 is no layer"),
        ("{}", FormatError, "names no layer"),
        ("[1]", FormatError, "expected a JSON object"),
        ("{", FormatError, "not valid JSON"),
    ],
)
def test_bad_layer_files_are_refused(
    tmp_path: Path, text: str, kind: type[LoragraftError], pattern: str
) -> None:
    source = made.llama(tmp_path / "S", seed=1)
    adapter = made.adapter(tmp_path / "A", source)
    (tmp_path / "layers.json").write_text(text)
    _refuse(kind, pattern, tmp_path, adapter, source, source, str(tmp_path / "layers.json"))


def test_other_layer_maps_that_cannot_be(tmp_path: Path) -> None:
    source = made.llama(tmp_path / "S", seed=1)
    target = made.wider(tmp_path / "T", seed=2)
    adapter = made.adapter(tmp_path / "A", source)
    _refuse(UsageError, "--layer-map 'nearest'", tmp_path, adapter, source, target, "nearest")
    _refuse(MismatchError, "no width in common", tmp_path, adapter, source, target, "similarity")


def _refuse(kind: type[LoragraftError], pattern: str, place: Path, *arguments: Any) -> None:
    adapter, source, target, layer_map = arguments
    refused(
        kind,
        pattern,
        lambda: transfer(adapter, source, target, place / "out", layer_map=layer_map, cache=False),
        place,
    )
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 4
