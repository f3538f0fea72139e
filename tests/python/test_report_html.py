"""report.html and its schema: complete, safe, in words of the report, and in step with the data."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest

import made_reports as made
import transfer_files
from command_line import CommandLine, loragraft, pair
from loragraft.comparison.report import ComparedModule, ComparisonSummary
from loragraft.report.html import html_report, plotly_script
from loragraft.report.html.command import command_line
from loragraft.report.html.layers import layers_of
from loragraft.report.html.spectra import floor_of
from loragraft.report.model import ModuleReport, Summary, TensorReport
from loragraft.subspaces.chance import Overlap
from loragraft.transferring.report import FilterReport, TransferredModule, TransferSummary

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Data = dict[str, Any]
    Paths = tuple[Path, Path, Path]

__all__ = ["loragraft", "pair"]

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
#: Closing tags are not theirs.
VOID = {"meta", "link", "input", "img", "br"}


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAGRAFT_CACHE", "off")


@pytest.fixture
def without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loragraft.report.html.page.plotly_script", lambda: None)


class Page(HTMLParser):
    """Elements of a page with their attributes, and the texts within them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], text))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    def data(self) -> Data:
        # Neither a closing tag nor a comment can begin where there is no such character.
        (text,) = (text for tag, text in self.texts if tag == "script" and text.startswith('{"ch'))
        assert "<" not in text
        return json.loads(text)  # type: ignore[no-any-return]


def check(data: Data) -> None:
    jsonschema.Draft202012Validator(made.schema()).validate(data)


def read(directory: Path) -> tuple[Data, Page]:
    """The report and the page that a command left."""
    data = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    return data, Page((directory / "report.html").read_text(encoding="utf-8"))


def cells(chart: Data) -> int:
    return sum(value is not None for row in chart["values"] for value in row)


def rows(page: Page) -> list[Data]:
    """The table of decisions."""
    columns = page.data()["columns"]
    values = [
        [one["words"][code] for code in one["codes"]] if "words" in one else one["values"]
        for one in columns
    ]
    labels = [one["label"] for one in columns]
    return [dict(zip(labels, row, strict=True)) for row in zip(*values, strict=True)]


def test_an_extraction_leaves_a_page(loragraft: CommandLine, pair: Paths, tmp_path: Path) -> None:
    assert loragraft("extract", *pair[:2], "-o", tmp_path / "out", "--rank", "3").code == 0
    data, page = read(tmp_path / "out")
    check(data)
    found = rows(page)
    assert {row["name"] for row in found} == {row["name"] for row in data["tensors"]}
    assert [row["outcome"] for row in found] == [row["outcome"] for row in data["tensors"]]
    energies = {row["name"]: row["energy"] for row in found if row["energy"] is not None}
    assert energies == {
        f"{row['name']}.weight": pytest.approx(row["energy"], rel=1e-4) for row in data["modules"]
    }
    maps = [one for one in page.data()["charts"] if one["chart"] == "heat_map"]
    assert [cells(one) for one in maps] == [len(data["modules"])] * len(maps)
    assert maps
    assert ("p", data["summary"]["verdict"]) in page.texts
    assert str(tmp_path) not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_page_goes_with_its_report(loragraft: CommandLine, pair: Paths, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("extract", *pair[:2], "-o", out, "--rank", "3")
    assert loragraft(*command).code == 0
    assert loragraft(*command, "--no-report", "--force").code == 0
    assert not (out / "report.html").exists()
    assert not (out / "report.json").exists()


def test_a_transfer_and_its_controls_leave_pages(loragraft: CommandLine, tmp_path: Path) -> None:
    base = transfer_files.llama(tmp_path / "S", seed=1, depth=3)
    adapter = transfer_files.adapter(tmp_path / "A", base)
    command = ("transfer", adapter, "--source", base, "--target", base, "-o", tmp_path / "out")
    options = ("--subspace-rank", "4", "--controls", "--layers", "0-1", "--method", "lora-x")
    assert loragraft(*command, *options).code == 0
    data, page = read(tmp_path / "out")
    check(data)
    assert [row["name"] for row in rows(page)] == [row["name"] for row in data["modules"]]
    assert len({row["outcome"] for row in data["modules"]}) > 1
    assert data["filters"]
    for one in data["filters"]:
        assert ("td", one["option"]) in page.texts
    assert len(page.data()["charts"]) == 3
    control, page = read(tmp_path / "out-random")
    check(control)
    assert page.data()["charts"] == []
    # Nothing to draw, and nothing to draw it with.
    assert (tmp_path / "out-random" / "report.html").stat().st_size < 50_000


def test_a_comparison_leaves_a_page(loragraft: CommandLine, tmp_path: Path) -> None:
    a = transfer_files.llama(tmp_path / "A", seed=1, depth=2)
    b = transfer_files.moved(a, tmp_path / "B", change=0.2)
    assert loragraft("compare", a, b, "--subspace-rank", "8", "-o", tmp_path / "out").code == 0
    data, page = read(tmp_path / "out")
    check(data)
    assert [cells(one) for one in page.data()["charts"]] == [14, 14, 14]
    changes = [row["weight change"] for row in rows(page)]
    assert changes == [pytest.approx(row["weight_change"], rel=1e-4) for row in data["modules"]]


def test_an_evaluation_is_a_page() -> None:
    data = made.evaluation()
    check(data)
    page = Page(html_report(data))
    forests = [one for one in page.data()["charts"] if one["chart"] == "forest"]
    assert [len(one["intervals"]) for one in forests] == [8, 8, 6]
    points = forests[0]["intervals"][0]
    first = data["comparisons"][0]["metrics"]["acc"]
    assert points["value"] == pytest.approx(100.0 * first["difference"])
    assert (points["low"], points["high"]) == pytest.approx(
        (100.0 * first["low"], 100.0 * first["high"])
    )
    metrics = [one["row"].split(": ")[1] for one in forests[2]["intervals"]]
    assert metrics == ["acc", "log-likelihood"] * 3
    assert forests[2]["marks"] == [[0.0, "base"], [100.0, "oracle"]]
    assert len(rows(page)) == len(made.COMPARED) * len(made.METRICS)
    for one in data["comparisons"]:
        pair_words = f"{one['candidate']} against {one['against']}: {one['words']}"
        assert ("p", pair_words) in page.texts
    assert "/home/me" not in html_report(data)


def test_an_evaluation_without_questions_or_oracle_is_a_page_too() -> None:
    data = made.evaluation() | {"tasks": [], "comparisons": []}
    check(data)
    page = Page(html_report(data))
    assert page.data()["rows"] == 0
    assert ("td", "0.0021") in page.texts


def test_experts_share_the_cells_of_their_layer() -> None:
    data = made.experts(layers=3, count=4)
    check(data)
    page = Page(html_report(data))
    energy = page.data()["charts"][0]
    assert energy["rows"] == list(made.EXPERT_KINDS)
    assert energy["columns"] == ["0", "1", "2"]
    own = [
        one["energy"] for one in data["modules"] if (one["kind"], one["layer"]) == ("up_proj", 2)
    ]
    assert energy["values"][1][2] == pytest.approx(sum(own) / 4, rel=1e-4)
    assert energy["words"][1][2].endswith(f"lowest {100 * min(own):.2f}% of 4")
    assert len(rows(page)) == 3 * 4 * 3 + 1


def test_kinds_of_one_name_have_rows_of_their_own() -> None:
    names = ("model.layers.{}.mlp.up_proj", "model.layers.{}.mlp.shared_expert.up_proj")
    modules = [{"name": name.format(n), "layer": n} for n in range(2) for name in names]
    modules.append({"name": "lm_head", "layer": None})
    found = layers_of(modules)
    assert found.rows == ("mlp.up_proj", "shared_expert.up_proj", "lm_head")
    assert found.columns == ("0", "1", "–")
    assert len(found.cells) == 5


@pytest.mark.parametrize("shape", [(96, 64), (40, 240)])
def test_the_rounding_floor_is_where_the_noise_ends(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).standard_normal(shape)
    row = {"shape": shape, "rounding_floor": 1.0}
    top = np.linalg.norm(noise, 2) / np.linalg.norm(noise)
    # The largest value fluctuates about the edge by n^(-2/3) of it (Johnstone, 2001).
    assert floor_of(row) == pytest.approx(top, rel=min(shape) ** (-2 / 3))
    assert floor_of(row | {"rounding_floor": None}) is None


def _hostile(data: Data) -> Data:
    """Put a script wherever a file's author may write something."""
    for row in (*data["tensors"], *data["modules"]):
        row["name"] = HOSTILE + row["name"]
        row["kind"] = HOSTILE
        row["why"] = HOSTILE
    data["summary"] |= {"verdict": HOSTILE, "warnings": [HOSTILE]}
    data["inputs"] |= {"base": HOSTILE, "a": HOSTILE, "model": HOSTILE}
    for one in data.get("candidates", ()):
        one["name"] = HOSTILE
    for one in data.get("comparisons", ()):
        one["candidate"] = one["words"] = HOSTILE
    return data


@pytest.mark.parametrize("make", [made.evaluation, lambda: made.experts(1, 2)])
def test_names_cannot_become_markup(make: Callable[[], Data]) -> None:
    clean, hostile = Page(html_report(make())), Page(html_report(_hostile(make())))
    assert hostile.count("script") == clean.count("script")
    assert hostile.count("img") == 0
    assert any(HOSTILE in text for tag, text in hostile.texts if tag != "script")
    assert HOSTILE in json.dumps(hostile.data())


def test_a_page_refers_to_nothing_outside(without_plotly: None) -> None:
    for data in (made.evaluation(), made.experts(1, 2)):
        text = html_report(data)
        assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)""", text)
        assert not re.findall(r"url\(|@import|https?:|//cdn", text)
        policy = dict(Page(text).elements)
        assert "meta" in policy
        assert "default-src 'none'" in text


def test_without_plotly_tables_tell_all_and_the_extra_is_named(without_plotly: None) -> None:
    page = Page(html_report(made.evaluation()))
    assert ("code", "pip install 'loragraft[plot]'") in page.texts
    assert page.count("figure") == 0
    assert ("td", "87.5%") in page.texts
    assert len(rows(page)) == len(made.COMPARED) * len(made.METRICS)


def test_plotly_is_there_for_the_tests_and_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plotly_script.plotly_script()
    plotly_script.plotly_script.cache_clear()
    monkeypatch.setattr(plotly_script, "find_spec", lambda _: None)
    assert plotly_script.plotly_script() is None
    plotly_script.plotly_script.cache_clear()


def test_a_large_page_stays_small() -> None:
    data = made.experts()
    assert len(data["modules"]) == 30_720
    assert len(html_report(data).encode()) < 15_000_000


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"command": "extract", "inputs": {
            "base": "/data/a", "tuned": "owner/b", "rank": 8, "rank_rule": "auto", "max_rank": 64,
            "alpha": 8.0, "target_modules": ["q_proj", "k_proj"], "layers": [0, 1], "exact": True,
            "patch": False, "experts": False, "seed": 0}},
         "loragraft extract a owner/b --rank auto --max-rank 64 --target-modules q_proj,k_proj"
         " --layers 0,1 --exact --skip-3d True"),
        ({"command": "transfer", "inputs": {
            "adapter": "x/", "source": "/data/my s", "target": "./t", "scale": 0.5,
            "calibration": "/home/me/texts.txt", "exclude": ["re:a\\.b"], "control": "random"}},
         "loragraft transfer x/ --source 'my s' --target t --scale 0.5 --calibration texts.txt"
         " --exclude 're:a\\.b'"),
        (made.evaluation(),
         "loragraft evaluate base --task arc_challenge --oracle tuned --dtype float32"
         " --adapter extracted=out --control random=out-random --model tuned=tuned"),
    ],
)  # fmt: skip
def test_the_command_is_told_as_it_is_typed(data: Data, expected: str) -> None:
    words, wanted = (sorted(text.split(" --")) for text in (command_line(data), expected))
    assert words == wanted


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tensor", TensorReport),
        ("module", ModuleReport),
        ("extraction_summary", Summary),
        ("transferred_module", TransferredModule),
        ("transfer_summary", TransferSummary),
        ("filter", FilterReport),
        ("overlap", Overlap),
        ("compared_module", ComparedModule),
        ("comparison_summary", ComparisonSummary),
    ],
)
def test_the_schema_describes_every_field(name: str, kind: type) -> None:
    described = made.schema()["$defs"][name]["properties"]
    assert set(described) == {field.name for field in fields(kind)}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.pop("schema"),
        lambda data: data.update(command="magic"),
        lambda data: data["modules"][0].pop("energy"),
        lambda data: data["modules"][0].update(rank="8"),
        lambda data: data["tensors"][0].update(outcome="lost"),
        lambda data: data["summary"].pop("counts"),
    ],
)
def test_the_schema_refuses_what_is_no_report(spoil: Callable[[Data], Any]) -> None:
    data = made.experts(1, 1)
    check(data)
    spoil(data)
    with pytest.raises(jsonschema.ValidationError):
        check(data)


def test_the_schema_itself_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(made.schema())


def test_an_interrupted_page_leaves_no_half_adapter(
    loragraft: CommandLine, pair: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("loragraft.report.html.html_report", stop)
    assert loragraft("extract", *pair[:2], "-o", tmp_path / "out", "--rank", "3").code != 0
    assert not (tmp_path / "out" / "adapter_config.json").exists()
