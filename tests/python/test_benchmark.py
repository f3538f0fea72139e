"""What the benchmarks compute with their measurements, and what they do when one is missing."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def load():
    """Import benchmark modules, whose names other tests' helpers share."""
    stems = {path.stem for path in BENCHMARKS.glob("*.py")}
    hidden = {name: sys.modules.pop(name) for name in stems & set(sys.modules)}
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))
    for name in stems & set(sys.modules):
        del sys.modules[name]
    sys.modules.update(hidden)


@pytest.fixture
def usage(load):
    def make(wall, disk_read=0):
        return load("process").Usage(wall, wall, 10_000_000, disk_read, 0.0)

    return make


@pytest.fixture
def entry(load, usage):
    def make(name, walls, share=1.0, start=0.0, why_not=""):
        usages = [usage(wall) for wall in walls]
        return load("speed").Entry(name, "pair", share, start, usages, None, None, why_not)

    return make


def test_a_spread_is_median_and_ends(load):
    spread = load("spread").Spread.of([3.0, 1.0, 2.0, 10.0])
    assert (spread.median, spread.least, spread.most) == (2.5, 1.0, 10.0)
    assert spread.text(1) == "2.5 (1.0–10.0)"
    assert load("spread").Spread.of([2.0]).text(2) == "2.00"


def test_a_ratio_is_taken_round_by_round(load):
    # Medians would give 4 / 2; both programs were slowed down in the second round.
    ratio = load("spread").Spread.ratio([3.0, 40.0, 4.0], [1.0, 20.0, 2.0, 5.0])
    assert (ratio.median, ratio.least, ratio.most) == (2.0, 2.0, 3.0)


def test_a_line_finds_start_and_slope_and_the_worst_point(load):
    line = load("line").Line.through([1.0, 2.0, 4.0], [2.5, 3.0, 4.0])
    assert line.start == pytest.approx(2.0)
    assert line.slope == pytest.approx(0.5)
    assert line.deviation == pytest.approx(0.0, abs=1e-12)
    bent = load("line").Line.through([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 5.0])
    assert 0.05 < bent.deviation < 0.2
    with pytest.raises(ValueError, match="two different x"):
        load("line").Line.through([1.0, 1.0], [1.0, 2.0])


def test_bars_tell_required_and_better(load):
    bar = load("markdown").Bar
    assert bar.at_least("a", 12.0, 10.0, "12.0", 15.0).row()[3:] == ["yes", "15 (no)"]
    assert bar.at_most("b", 1.2, 1.0, "1.2").row()[3:] == ["**no**", ""]
    row = bar.not_run("c", "at least 3", "no network").row()
    assert row == ["c", "at least 3", "not run: no network", "not run", ""]


def test_a_part_is_scaled_with_one_start_and_its_quickest_round(entry):
    part = entry("slow", [12.0, 7.0], share=1 / 16, start=2.0)
    assert part.seconds == pytest.approx([2.0 + 16 * 5.0])
    over = part.over(entry("loragraft", [1.0, 2.0, 4.0]))
    assert (over.median, over.least, over.most) == pytest.approx((41.0, 20.5, 82.0))


def test_whoever_did_not_run_is_told_and_not_judged(load, entry):
    entries = {"loragraft": entry("loragraft", [1.0])}
    entries["mergekit"] = entry("mergekit", [], why_not="no network")
    speed = load("speed").Speed("pair", 16, 10**9, 4 * 10**9, entries)
    assert "not run: no network" in speed.table()
    bar = speed._faster("Times faster", "mergekit", 300.0, 500.0)
    assert bar.met is None
    assert "no network" in bar.measured


@pytest.mark.parametrize(
    ("disk_read", "resident", "cold"), [(1000, 0.0, True), (900, 0.0, False), (1000, 0.1, False)]
)
def test_cold_is_believed_only_when_the_disk_was_read(load, usage, disk_read, resident, cold):
    usages = {"cat": [usage(1.0, 1000)], "loragraft": [usage(2.0, disk_read)]}
    found = load("cold").Cold("pair", 1000, usages, {"cat": [0.0], "loragraft": [resident]})
    assert found.is_cold is cold
    (bar,) = found.bars()
    assert bar.met is (False if cold else None)


def test_a_failed_installation_is_a_row_not_an_error(load, monkeypatch, tmp_path):
    def fail(command, **_):
        raise subprocess.CalledProcessError(1, command, stderr="WARNING: x\nERROR: no torch\n")

    monkeypatch.setattr(subprocess, "run", fail)
    bench = load("bench").Bench(tmp_path, 1, lambda _: None)
    starter = load("field")._mergekit(bench, None)
    assert starter.racer.why_not == "could not be installed: ERROR: no torch"
    assert starter.racer.play() is None


def test_a_program_that_fails_leaves_the_race_but_loragraft_ends_it(load):
    race, error = load("race"), load("process").ProcessFailedError

    def fail():
        raise error("exited with 1:\nout of memory")

    other = race.Racer("other", fail)
    assert other.play() is None
    assert other.why_not == "out of memory"
    with pytest.raises(error):
        race.Racer("loragraft", fail).play()


def test_a_copied_layer_is_the_one_that_would_be_made(load, monkeypatch, tmp_path):
    llama = load("llama")
    small = {"HIDDEN": 64, "INTERMEDIATE": 96, "HEADS": 4, "KEY_VALUE_HEADS": 2, "DEEPEST": 2}
    for name, value in small.items():
        monkeypatch.setattr(llama, name, value)
    made = llama.llama_pair(tmp_path / "made", 1)
    llama.llama_pair(tmp_path / "copied", 2)
    copied = llama.llama_pair(tmp_path / "copied", 1)
    for one, other in zip(made.files, copied.files, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_pages_come_and_go(load, tmp_path):
    page_cache, file = load("page_cache"), tmp_path / "file"
    file.write_bytes(b"x" * 100_000)
    page_cache.warm([file])
    assert page_cache.resident([file]) == 1.0
    page_cache.drop([file])  # what is left is the file system's affair
    assert 0.0 <= page_cache.resident([file]) <= 1.0


def test_a_chart_is_xml_with_a_bar_for_every_mark(load):
    chart, spread = load("chart"), load("spread").Spread
    marks = [
        chart.Mark("a < b", spread.of([1.0, 2.0]), ours=True),
        chart.Mark("c", spread.of([300.0]), ours=False, note="scaled"),
    ]
    svg = chart.Chart("Title", "words", "seconds", marks, [chart.Rule("cat", 0.5)]).svg()
    root = ET.fromstring(svg)
    kinds = [element.get("class") for element in root.iter()]
    assert [kinds.count(kind) for kind in ("ours", "theirs", "rule")] == [1, 1, 1]
    assert root.find("{*}title").text == "Title"
    bars = [float(e.get("width")) for e in root.iter() if e.get("class") in {"ours", "theirs"}]
    # 0.1 to 1000 is four decades: the bars' lengths are logarithms.
    assert bars[1] - bars[0] == pytest.approx(552 / 4 * math.log10(300.0 / 1.5), abs=0.2)


@pytest.mark.parametrize(
    ("value", "words"), [(0.456, "0.46"), (4.56, "4.6"), (45.6, "46"), (1118.0, "1,100")]
)
def test_figures_have_two_digits(load, value, words):
    assert load("chart").figures(value) == words


def test_every_prescribed_change_has_its_shape(load):
    spectra = load("spectra")
    rng = np.random.default_rng(0)
    names = [spectra.tensor_name(change) for change in spectra.CHANGES]
    assert len(set(names)) == len(names)
    for change in {(c.name, c.shape): c for c in spectra.CHANGES if min(c.shape) < 400}.values():
        made = change.make(rng, change.shape)
        assert made.shape == change.shape
        assert np.isfinite(made).all()
