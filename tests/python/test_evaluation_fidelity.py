"""KL, agreement and perplexities on a text are those of plain float64, window by window."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import asked_models as made
from fidelity_models import EPS, TEXT, Case, case, exact, plain, rows, subject
from loragraft.errors import FormatError, NonFiniteError
from loragraft.evaluation import divergence
from loragraft.evaluation.candidate import Candidate, Kind
from loragraft.evaluation.divergence import Reference
from loragraft.evaluation.fidelity import FEWEST, fidelity_notes, measure_fidelity
from loragraft.evaluation.fidelity_row import FidelityRow, fidelity_words
from loragraft.evaluation.table import fidelity_table
from loragraft.evaluation.text import FidelityText, read_text
from loragraft.evaluation.windows import Window, cut_windows
from loragraft.report.page import Page

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


__all__ = ["case", "rows"]


class Logits(NamedTuple):
    """Stands in for a model whose logits are known."""

    logits: Any
    device: str = "cpu"

    def __call__(self, **_: Any) -> Logits:
        return self

    @property
    def model(self) -> Logits:
        return self


def slack(logs: Any, found: Any) -> float:
    """What rounding may do to Σ p·d + (q − p).

    Its derivatives are p·d by log p and q − p by log q; a log-softmax of float32 is within a few
    roundings of a number as large as itself. The terms have as many roundings of their own.
    """
    p, q = np.exp(logs), np.exp(found)
    moved = 4.0 * EPS * (1.0 + max(np.abs(logs).max(), np.abs(found).max()))
    first = (p * np.abs(logs - found) + np.abs(p - q)).sum()
    return float((moved + 8.0 * EPS) * first + moved**2 * len(p))


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1e-5, 1e-2, 1.0, 30.0]),
    st.sampled_from([0.1, 5.0, 60.0]),
)
def test_divergences_are_exact_to_rounding_however_small_or_large(
    seed: int, apart: float, sharp: float
) -> None:
    torch.manual_seed(seed)
    places, size = 5, 300
    window = Window(tuple(torch.randint(0, size, (places + 1,)).tolist()), 1)
    logits = sharp * torch.randn(1, places + 1, size)
    others = logits + apart * torch.randn_like(logits)
    found = Reference(Logits(logits), window, size).against(Logits(others))  # type: ignore[arg-type]
    kl, logs, q = exact(logits[0, :-1], others[0, :-1])
    assert abs(found.kl - kl.sum()) <= slack(logs, q)
    assert found.agreed == (logs.argmax(-1) == q.argmax(-1)).sum()
    loss = -q[np.arange(places), window.ids[1:]]
    np.testing.assert_allclose(
        found.loss, loss.sum(), atol=8 * EPS * (np.abs(q).max() + 1) * places
    )


def test_equal_logits_are_no_distance_apart_at_all() -> None:
    window = Window((3, 1, 4), 1)
    logits = 20.0 * torch.randn(1, 3, 300)
    found = Reference(Logits(logits), window, 300).against(Logits(logits))  # type: ignore[arg-type]
    assert (found.kl, found.agreed) == (0.0, 2.0)


def test_logits_are_read_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    window = Window(tuple(range(8)), 3)
    one, other = torch.randn(1, 8, 50), torch.randn(1, 8, 50)
    whole = Reference(Logits(one), window, 50).against(Logits(other))  # type: ignore[arg-type]
    monkeypatch.setattr(divergence, "_CHUNK", 120)
    parts = Reference(Logits(one), window, 50).against(Logits(other))  # type: ignore[arg-type]
    assert parts == pytest.approx(whole, rel=1e-12)
    kl, _, _ = exact(one[0, 2:-1], other[0, 2:-1])
    assert parts.kl == pytest.approx(kl.sum(), rel=64 * EPS)


@pytest.mark.parametrize("bos", [True, False])
def test_figures_are_those_of_a_plain_reading(tmp_path: Path, bos: bool) -> None:
    base = made.save_model(tmp_path / "base", bos=bos)
    tuned = made.save_model(tmp_path / "tuned", seed=1, bos=bos)
    adapter = Candidate("a", Kind.ADAPTER, made.save_adapter(tmp_path / "a"))
    one = subject(base, adapter)
    ids = one.language_model.tokenizer(TEXT.text, add_special_tokens=False)["input_ids"]
    step = 63 if bos else 64
    windows = [[1] * bos + ids[at : at + step] for at in range(0, len(ids), step)]
    tokens = sum(len(window) - 1 for window in windows)
    # Where nothing stands before a text, a window's first token is foretold by nothing.
    assert tokens == len(ids) - (0 if bos else len(windows))
    (row,) = measure_fidelity(one, subject(tuned), [adapter], TEXT, window=64)
    assert (row.tokens, row.windows, row.window) == (tokens, len(windows), 64)
    goal, alone, own = (
        plain(tuned, None, windows), plain(base, None, windows), plain(base, adapter.path, windows)
    )  # fmt: skip
    wanted = np.concatenate([window[1:] for window in windows])
    places = np.arange(tokens)
    for logits, name in ((own, ""), (alone, "_base")):
        kl, logs, found = exact(goal, logits)
        assert getattr(row, f"kl{name}") == pytest.approx(kl.mean(), rel=1e3 * EPS)
        assert getattr(row, f"top1{name}") == (logs.argmax(-1) == found.argmax(-1)).mean()
        perplexity = np.exp(-found[places, wanted].mean())
        assert getattr(row, f"perplexity{name}") == pytest.approx(perplexity, rel=1e3 * EPS)
    perplexity = np.exp(-logs[places, wanted].mean())
    assert row.perplexity_tuned == pytest.approx(perplexity, rel=1e3 * EPS)
    assert row.removed == pytest.approx(1.0 - row.kl / row.kl_base)


def test_the_adapter_that_was_merged_removes_all(rows: Sequence[FidelityRow]) -> None:
    right, other, idle = rows
    # Float32 rounding of logits of a few dozen, squared.
    assert right.kl < (1e3 * EPS) ** 2 < 1e-3 < right.kl_base
    assert right.removed is not None
    assert right.removed > 1.0 - 1e-5
    assert right.top1 == 1.0 > right.top1_base
    assert right.perplexity == pytest.approx(right.perplexity_tuned, rel=1e3 * EPS)
    assert right.rank == 2
    assert not right.same
    assert other.kl > 1e-3
    assert not other.same
    assert (idle.kl, idle.removed, idle.top1) == (idle.kl_base, 0.0, idle.top1_base)
    assert idle.same


def test_intervals_hold_the_figures_and_windows_are_what_is_drawn(
    case: Case, rows: Sequence[FidelityRow]
) -> None:
    for row in rows[:2]:
        assert row.windows >= FEWEST
        assert row.kl_low is not None
        assert row.kl_high is not None
        assert row.kl_low < row.kl < row.kl_high
        assert row.removed is not None
        assert row.removed_low is not None
        assert row.removed_high is not None
        assert row.removed_low < row.removed < row.removed_high
    assert (rows[2].removed_low, rows[2].removed_high) == (0.0, 0.0)
    base, tuned = subject(case.base, *case.adapters), subject(case.tuned)
    # A row does not depend on who else is measured; the seed is that of the resamples alone.
    told: list[tuple[str, int, int]] = []
    alone = measure_fidelity(
        base, tuned, [case.other], TEXT, window=64, progress=lambda *one: told.append(one)
    )
    assert alone == (rows[1],)
    (drawn,) = measure_fidelity(base, tuned, [case.other], TEXT, window=64, seed=1)
    assert (drawn.kl, drawn.removed) == (rows[1].kl, rows[1].removed)
    assert (drawn.kl_low, drawn.kl_high) != (rows[1].kl_low, rows[1].kl_high)
    count = rows[1].windows
    assert told[:2] == [("base", 0, 2 * count), ("other", 1, 2 * count)]
    assert told[-1] == ("other", 2 * count, 2 * count)
    (few,) = measure_fidelity(base, tuned, [case.other], TEXT, window=500)
    assert few.windows < FEWEST
    assert (few.kl_low, few.removed_high) == (None, None)
    assert few.removed is not None
    notes = fidelity_notes(base, tuned, TEXT, [few])
    assert any("of a text, read in" in note and "at most 500 tokens" in note for note in notes)
    assert any("no intervals" in note for note in notes)


def test_the_base_as_tuned_is_0_away(case: Case) -> None:
    base = subject(case.base, case.idle, case.right)
    idle, right = measure_fidelity(
        base, subject(case.base), [case.idle, case.right], TEXT, window=64
    )
    assert (idle.kl, idle.kl_base, idle.removed, idle.top1) == (0.0, 0.0, None, 1.0)
    assert idle.removed_low is None
    assert right.kl > 0.0
    told = fidelity_words([idle, right])
    assert told.startswith("TUNED gives the base's probabilities, bit for bit")
    assert told.endswith(f"right: KL {right.kl:.3g} nats a token from it")
    assert measure_fidelity(base, subject(case.base), [], TEXT) == ()


def test_words_say_what_is_reproduced(rows: Sequence[FidelityRow]) -> None:
    right, _, idle = rows
    said = fidelity_words([right, idle], "owner/tuned")
    assert said.startswith(
        f"right: KL {right.kl:.3g} nats a token from owner/tuned, where the base"
    )
    assert "of the change reproduced (95 %: " in said
    assert f"; idle changes nothing: KL {idle.kl:.3g} nats a token from owner/tuned" in said
    assert fidelity_words([changed(right, removed=0.992)]).endswith(
        "99.20% of the change reproduced"
    )
    assert fidelity_words([changed(right, removed=-0.3)]).endswith("further away than the base")
    unclear = changed(right, removed=0.1, low=-0.1, high=0.2)
    assert fidelity_words([unclear]).endswith("no nearer than the base, as far as this text shows")


def changed(
    row: FidelityRow, removed: float, low: float | None = None, high: float | None = None
) -> FidelityRow:
    figures = {"removed": removed, "removed_low": low, "removed_high": high}
    return FidelityRow(**{**row.to_json(), **figures})


def test_the_table_has_the_base_the_candidates_and_the_tuned(rows: Sequence[FidelityRow]) -> None:
    data = json.loads(json.dumps([row.to_json() for row in rows], allow_nan=False))
    assert {"candidate", "tokens", "kl", "kl_base", "top1", "perplexity"} < data[0].keys()
    table = fidelity_table(data)
    console = Console(file=io.StringIO(), width=120, highlight=False)
    with console.capture() as capture:
        console.print(Page((table,)))
    lines = capture.get().splitlines()
    assert "…" not in capture.get()
    names = [line.split()[0] for line in lines if line.strip() and line.split()[0].isalpha()]
    assert names == ["candidate", "base", "right", "other", "idle", "tuned"]
    assert f"{rows[1].kl:.4g} ({rows[1].kl_low:.4g} to {rows[1].kl_high:.4g})" in capture.get()


def test_numbers_that_are_none_are_told(case: Case) -> None:
    tuned = subject(case.tuned)
    base = subject(case.base, case.right)
    with torch.no_grad():
        tuned.language_model.model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="the tuned model: computes NaN or Inf"):
        measure_fidelity(base, tuned, [case.right], TEXT)
    with torch.no_grad():
        base.language_model.inner.lm_head.weight[0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match=r"^base: computes NaN or Inf"):
        measure_fidelity(base, subject(case.tuned), [case.right], TEXT)


def test_memory_that_will_not_do_is_told(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    base, tuned = subject(case.base, case.right), subject(case.tuned)
    monkeypatch.setattr(Reference, "against", fail)
    with pytest.raises(FormatError, match="out of memory with 64 tokens of text at a time"):
        measure_fidelity(base, tuned, [case.right], TEXT, window=64)


def test_a_model_reads_no_more_than_it_has_positions_for(case: Case) -> None:
    base, tuned = subject(case.base), subject(case.tuned)
    tuned.language_model.model.config.max_position_embeddings = 40
    assert max(len(one.ids) for one in cut_windows(base, tuned, TEXT)) == 40


def test_the_own_text_is_plain_and_long_enough() -> None:
    own = read_text()
    assert own.text.isascii()
    assert 10_000 < len(own.text) < 20_000
    assert own.text.startswith("We were occupied")
    assert own.text.endswith("with all nations.\n")
    assert "English" in own.name


def test_texts_are_read_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_bytes(b"\xef\xbb\xbfna\xc3\xafve\r\n")
    assert read_text(file) == FidelityText(str(file), "naïve\r\n")


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"caf\xe9 au lait", "byte 3 is 0xe9"), (b"", "no text in it"), (b" \n\t", "no text in it")],
)
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    file = tmp_path / "t.txt"
    file.write_bytes(data)
    with pytest.raises(FormatError, match=said):
        read_text(file)
    with pytest.raises(FormatError, match="cannot be opened"):
        read_text(tmp_path / "missing")


def test_a_text_of_one_token_is_refused(case: Case) -> None:
    base = subject(case.base)
    with pytest.raises(FormatError, match="has 1 token, expected at least 2"):
        cut_windows(base, base, FidelityText("t", "a"))
    (window,) = cut_windows(base, base, FidelityText("t", "ab"))
    assert (len(window.ids), window.first, window.tokens) == (3, 1, 2)
