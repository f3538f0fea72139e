"""The maps of a comparison: every module a cell, every figure the report's."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from rich.console import Console

import fused_models as fused
import transfer_files as made
from command_line import CommandLine, loragraft
from loragraft import compare
from loragraft.comparison.drawing import draw
from loragraft.comparison.grid import grid_of
from loragraft.comparison.heat_map import SHADES, UNDEFINED, HeatMap
from loragraft.comparison.measures import BOTH, CHANGE, INPUT, OUTPUT
from loragraft.comparison.report import ComparedModule, ComparisonReport
from loragraft.comparison.summary import comparison_page, summarise
from loragraft.subspaces.chance import Overlap

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["loragraft"]
KINDS = ("q_proj", "o_proj", "down_proj")
SVG = "{http://www.w3.org/2000/svg}"
WIDTHS = (24, 40, 80, 120, 200)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAGRAFT_CACHE", "off")


def module(name: str, layer: int | None, value: float | None = 0.5) -> ComparedModule:
    side = (
        Overlap(None, why="no map") if value is None else Overlap(value, 0.0, value, 50.0 * value)
    )
    return ComparedModule(
        name=name, other=name, kind=name.rpartition(".")[2], layer=layer, shape=(8, 8),
        other_shape=(8, 8), subspace_rank=4, left=side, right=side, excess=value,
        weight_change=value, weight_cosine=value, weight_norm=1.0, other_norm=1.0,
    )  # fmt: skip


def report_of(modules: Sequence[ComparedModule], a: str = "owner/a") -> ComparisonReport:
    inputs = {"a": a, "b": "owner/b", "subspace_rank": "4", "seed": 0}
    return ComparisonReport(inputs, summarise(modules, 0, "", 1.0), tuple(modules))


def deep(layers: int) -> list[ComparedModule]:
    count = layers * len(KINDS)
    names = [(f"model.layers.{n}.self_attn.{kind}", n) for n in range(layers) for kind in KINDS]
    return [module(name, n, place / count) for place, (name, n) in enumerate(names)]


def cells(svg: str) -> list[tuple[str, str]]:
    """(fill or class, title) of every cell."""
    root = ET.fromstring(svg)
    found = []
    for box in root.iter(f"{SVG}rect"):
        title = box.find(f"{SVG}title")
        if title is not None:
            found.append((box.get("class") or box.get("fill") or "", title.text or ""))
    return found


@pytest.mark.parametrize("layers", [1, 2, 7, 33, 80])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_module_is_one_character(layers: int, width: int) -> None:
    modules = deep(layers)
    drawn = HeatMap(grid_of(modules), BOTH)
    lines = list(drawn.lines(width))
    assert all(len(line) <= width for line in lines)
    rows = dict.fromkeys(KINDS, "")
    for line in lines:
        kind, _, shades = line.partition(" ")
        if kind in rows:
            rows[kind] += shades.strip()
    for kind, shades in rows.items():
        expected = [one.excess or 0.0 for one in modules if one.kind == kind]
        # Without colour: five characters from little to much, in the order of the layers.
        assert shades == "".join(
            SHADES[sum(value >= bound for bound in (0.1, 0.4, 0.7, 0.9))] for value in expected
        )


def test_axes_number_the_layers() -> None:
    grid = grid_of(deep(80))
    wide, *_ = [line for line in HeatMap(grid, CHANGE).lines(120) if line.startswith("layer")]
    for number in range(0, 80, 10):
        assert wide.index(f" {number}") + 1 - wide.index("0") == number
    narrow = [line for line in HeatMap(grid, CHANGE).lines(44) if line.startswith("layer")]
    # 44 columns less 9 for the name and 2 between: 30 layers to a line.
    assert [re.findall(r"\d+", line) for line in narrow] == [
        ["0", "10", "20"], ["30", "40", "50"], ["60", "70"],
    ]  # fmt: skip


def test_the_legend_names_the_shades_and_what_is_undefined() -> None:
    modules = [*deep(2), module("model.layers.1.mlp.up_proj", 1, None)]
    text = "\n".join(HeatMap(grid_of(modules), BOTH).lines(100))
    for shade, name in zip(SHADES, BOTH.shades, strict=True):
        assert f"{shade} {name}" in text
    assert f"{UNDEFINED} undefined" in text
    # There is no such module in layer 0: its place is empty, and not undefined.
    (line,) = (line for line in text.splitlines() if line.startswith("up_proj"))
    assert line.endswith(f"  {' '}{UNDEFINED}")
    assert "undefined" not in "\n".join(HeatMap(grid_of(deep(2)), BOTH).lines(100))


def test_a_terminal_gets_the_same_characters_in_colour() -> None:
    page = comparison_page(report_of(deep(33)))
    plain = page.plain(120)
    assert plain is not None
    for terminal in (True, False):
        out = io.StringIO()
        colours = "truecolor" if terminal else None
        Console(file=out, width=120, force_terminal=terminal, color_system=colours).print(page)
        text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
        assert [line.rstrip() for line in text.splitlines()] == [
            line.rstrip() for line in plain.splitlines()
        ]
        assert ("\x1b[" in out.getvalue()) == terminal


def test_rows_of_one_kind_are_told_apart_by_their_paths() -> None:
    names = ("vision.layers.{}.attn.q_proj", "text.layers.{}.attn.q_proj",
             "text.layers.{}.cross.q_proj", "text.layers.{}.attn.k_proj")  # fmt: skip
    modules = [module(name.format(n), n) for n in range(3) for name in names]
    modules.append(module("projector.linear", None))
    grid = grid_of(modules)
    assert grid.rows == (
        "vision.layers.*.attn.q_proj", "text.layers.*.attn.q_proj", "cross.q_proj", "k_proj",
        "linear",
    )  # fmt: skip
    assert grid.layers == (0, 1, 2, -1)
    assert len(grid.cells) == len(modules)
    assert "linear, outside the layers" in " ".join(
        title for _, title in cells(draw(report_of(modules)))
    )


@pytest.mark.parametrize("layers", [1, 80])
def test_the_picture_has_three_cells_for_each_module(layers: int) -> None:
    modules = deep(layers)
    found = cells(draw(report_of(modules)))
    assert len(found) == 3 * len(modules)
    for row in modules:
        where = f"{row.kind}, layer {row.layer}: "
        figures = [title.removeprefix(where) for _, title in found if title.startswith(where)]
        left = row.left
        side = f"excess {left.excess:.3f}, similarity {left.similarity:.3f}, chance 0.000"
        change = f"change {row.weight_change:.4%}, cosine {row.weight_cosine:.3f}"
        assert figures == [f"{side}, z {left.z:.1f}", f"{side}, z {left.z:.1f}", change]
    steps = [fill for fill, _ in found[: len(modules)]]
    assert steps == [f"s{min(9, int(10 * (row.excess or 0.0)))}" for row in modules]


def test_what_is_undefined_is_hatched_and_says_why() -> None:
    rows = [module("model.layers.0.q_proj", 0, None), module("model.layers.0.k_proj", 0, 0.5)]
    svg = draw(report_of(rows))
    found = {title: fill for fill, title in cells(svg)}
    assert found["q_proj, layer 0: undefined: no map"] == "url(#undefined)"
    assert 'id="undefined"' in svg
    assert "Hatched: undefined" in svg
    resized = replace(rows[0], other_shape=(8, 4))
    assert "undefined: the shapes differ" in draw(report_of([resized]))


def test_the_picture_stands_alone_and_names_are_escaped() -> None:
    name = 'model.layers.0.<script>"&\x1b[31m\x00'
    svg = draw(report_of([module(name, 0)], a="/secret/place/of <models> & more"))
    root = ET.fromstring(svg)
    assert "\x1b" not in svg
    assert "<script>" not in svg
    assert "secret" not in svg
    text = " ".join(node.text or "" for node in root.iter(f"{SVG}text"))
    assert "loragraft compare 'of <models> & more' owner/b --subspace-rank 4 --seed 0" in text
    assert '<script>"&' in text
    assert "prefers-color-scheme: dark" in svg
    assert not re.findall(r"(?:href|src|url\((?!#)|@import|<script)", svg)
    assert root.get("viewBox") is not None
    for title in (OUTPUT.title, INPUT.title, CHANGE.title, "layer"):
        assert title in text
    # The same in a terminal: no escape code of a name gets through.
    assert "\x1b" not in "\n".join(HeatMap(grid_of([module(name, 0)]), BOTH).lines(80))


def test_colours_follow_the_figures() -> None:
    values = (0.0, 1e-6, 1e-5, 2e-4, 0.05, 1.0, 1.4)
    places = [CHANGE.position(value) for value in values]
    assert places == sorted(places)
    assert (places[0], places[2], places[-2], places[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert [CHANGE.shade(value) for value in values] == [0, 0, 0, 1, 3, 4, 4]
    assert [BOTH.shade(value) for value in (-0.1, 0.1, 0.69, 0.7, 1.0)] == [0, 1, 2, 3, 4]
    assert OUTPUT.position(-0.2) == 0.0


def test_compare_prints_and_writes_them(loragraft: CommandLine, tmp_path: Path) -> None:
    a = made.llama(tmp_path / "A", seed=1, depth=3)
    b = made.moved(a, tmp_path / "B", change=0.2)
    command = ("compare", a, b, "--subspace-rank", "8")
    answer = loragraft(*command, "-o", tmp_path / "out")
    assert answer.code == 0
    assert BOTH.title in answer.out
    assert CHANGE.title in answer.out
    assert sum(answer.out.count(shade) for shade in SHADES) == 2 * (21 + len(SHADES))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"report.json", "report.html", "compare.svg"}
    svg = (tmp_path / "out" / "compare.svg").read_text(encoding="utf-8")
    assert len(cells(svg)) == 3 * 21
    assert str(tmp_path) not in svg
    for option in ("--json", "-q"):
        silent = loragraft(*command, option)
        assert silent.code == 0
        assert BOTH.title not in silent.out
        assert not set(SHADES) & set(silent.out)


def test_fused_weights_are_compared_with_split_ones(tmp_path: Path) -> None:
    a = made.llama(tmp_path / "A", seed=1, depth=2)
    b = made.moved(a, tmp_path / "B", change=0.3)
    plain = compare(a, b, subspace_rank=12).report
    weights = made.matrices(a), made.matrices(b)
    for first, second in ((a, fused.phi3_of(b, tmp_path / "BF")),
                          (fused.phi3_of(a, tmp_path / "AF"), b)):  # fmt: skip
        report = compare(first, second, subspace_rank=12).report
        assert report.summary.unpaired == 0
        ours = {(row.kind, row.layer): row for row in report.modules}
        assert len(ours) == len(plain.modules)
        for row in plain.modules:
            found = ours[row.kind, row.layer]
            assert found.weight_change == pytest.approx(row.weight_change, rel=1e-12)
            assert found.weight_norm == pytest.approx(row.weight_norm, rel=1e-12)
            (ux, _, vx), (uy, _, vy) = (np.linalg.svd(one[row.name]) for one in weights)
            for side, one, other in ((found.left, ux, uy), (found.right, vx.T, vy.T)):
                exact = np.linalg.norm(one[:, :12].T @ other[:, :12]) ** 2 / 12
                # One direction of twelve may go either way: s₁₂ / s₁₃ is 1.001 in one of them.
                assert side.similarity == pytest.approx(exact, abs=0.04)
        assert len(grid_of(report.modules).cells) == len(report.modules)
    both = compare(tmp_path / "AF", tmp_path / "BF", subspace_rank=12).report
    assert {row.kind for row in both.modules} == {"qkv_proj", "gate_up_proj", "o_proj", "down_proj"}
