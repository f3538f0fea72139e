"""Tokens that a tuned model adds are left out of its fidelity; other differences are refused."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from command_line import CommandLine, loragraft
from fidelity_models import EPS, TEXT, Case, case, exact, plain, rows, subject
from loragraft.errors import MismatchError
from loragraft.evaluation.fidelity import fidelity_notes, measure_fidelity
from loragraft.evaluation.fidelity_row import fidelity_words
from loragraft.evaluation.text import FidelityText
from loragraft.evaluation.vocabulary import common_vocabulary
from loragraft.evaluation.windows import cut_windows
from made_reports import schema

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from loragraft.evaluation.fidelity_row import FidelityRow

__all__ = ["case", "loragraft", "rows"]

ADDED = ("<|turn|>", "<|tool|>", "candela")
SIZE = 300


def with_rows(directory: Path, place: Path, count: int) -> Path:
    """Give a model more rows than it has tokens, which are likely, would they count."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    torch.manual_seed(3)
    model.resize_token_embeddings(count, mean_resizing=False)
    with torch.no_grad():
        model.lm_head.weight[SIZE:] = 5.0
    shutil.copytree(directory, place)
    model.save_pretrained(place)
    return place


def with_added(directory: Path, place: Path, tokens: Sequence[str] = ADDED) -> Path:
    """Add tokens as tuning with a template does: to the tokenizer, and rows for them."""
    with_rows(directory, place, SIZE + len(tokens))
    tokenizer = AutoTokenizer.from_pretrained(place)
    assert tokenizer.add_tokens(list(tokens)) == len(tokens)
    tokenizer.save_pretrained(place)
    return place


def with_vocabulary(directory: Path, place: Path, change: dict[str, int], drop: str = "") -> Path:
    shutil.copytree(directory, place)
    path = place / "tokenizer.json"
    data = json.loads(path.read_text())
    vocab = data["model"]["vocab"]
    vocab.pop(drop, None)
    path.write_text(json.dumps({**data, "model": {**data["model"], "vocab": {**vocab, **change}}}))
    return place


def without_merges(place: Path) -> Path:
    path = place / "tokenizer.json"
    data = json.loads(path.read_text())
    data["model"]["merges"] = []
    path.write_text(json.dumps(data))
    return place


def test_added_tokens_do_not_count(case: Case, rows: Sequence[FidelityRow], tmp_path: Path) -> None:
    place = with_added(case.tuned, tmp_path / "tuned")
    base, tuned = subject(case.base, *case.adapters), subject(place)
    assert common_vocabulary(base, tuned) == (SIZE, ADDED, (SIZE, SIZE + 3))
    found = measure_fidelity(base, tuned, case.adapters, TEXT, window=64)
    for one, other in zip(found, rows, strict=True):
        # Those of the same model before it had them: what is left is made to sum to 1.
        assert one.kl == pytest.approx(other.kl, rel=1e3 * EPS, abs=EPS)
        assert one.top1 == other.top1
        assert one.perplexity_tuned == pytest.approx(other.perplexity_tuned, rel=1e3 * EPS)
        assert (one.vocabulary, one.added_tokens) == (SIZE, 3)
        assert (other.vocabulary, other.added_tokens, other.outside) == (SIZE, 0, 0.0)
    assert found[0].removed is not None
    assert found[0].removed > 1.0 - 1e-5
    windows = [one.ids for one in cut_windows(base, tuned, TEXT, 64)]
    goal, own = plain(place, None, windows), plain(case.base, case.other.path, windows)
    kl, _, _ = exact(goal[:, :SIZE], own)
    assert found[1].kl == pytest.approx(kl.mean(), rel=1e3 * EPS)
    outside = goal.double().softmax(-1)[:, SIZE:].sum(-1).mean()
    assert outside > 0.01, "or nothing is proven"
    assert found[0].outside == pytest.approx(float(outside), rel=1e3 * EPS)
    (note,) = (one for one in fidelity_notes(base, tuned, TEXT, found) if "adds" in one)
    assert "adds 3 tokens to the base's, the first '<|turn|>'" in note
    assert "the 300 tokens that both have, among themselves (it gives the others" in note
    assert f"{100 * outside:.2f}% on average" in note
    for kept in (found, found[2:]):
        words = fidelity_words(kept, "owner/tuned")
        assert words.endswith(
            "; the text was cut by the base's tokenizer, and 3 tokens that owner/tuned's adds to"
            " it did not count"
        )
    assert "did not count" not in fidelity_words(rows)


def test_a_text_with_added_tokens_is_cut_by_the_bases_tokenizer(case: Case, tmp_path: Path) -> None:
    text = FidelityText("a dialogue", f"{TEXT.text} <|turn|>Who was it?<|turn|> It was a candela.")
    base = subject(case.base, case.right)
    tuned = subject(with_added(case.tuned, tmp_path / "tuned"))
    whole = cut_windows(base, base, text, 64)
    assert cut_windows(base, tuned, text, 64) == whole
    assert cut_windows(tuned, tuned, text, 64) != whole
    (row,) = found = measure_fidelity(base, tuned, [case.right], text, window=64)
    assert row.tokens == sum(one.tokens for one in whole)
    notes = fidelity_notes(base, tuned, text, found)
    assert any("a dialogue holds added tokens, which both models read in" in one for one in notes)
    assert not any("holds added" in one for one in fidelity_notes(base, tuned, TEXT, found))


@pytest.mark.parametrize(("number", "size"), [(SIZE, SIZE), (310, 310)])
def test_added_tokens_may_take_rows_of_padding(
    case: Case, tmp_path: Path, number: int, size: int
) -> None:
    base = subject(with_rows(case.base, tmp_path / "base", 320))
    padded = with_rows(case.tuned, tmp_path / "padded", 320)
    tuned = subject(with_vocabulary(padded, tmp_path / "tuned", {"new!": number}))
    assert common_vocabulary(base, tuned) == (size, ("new!",), (320, 320))


def test_other_vocabularies_are_refused(case: Case, tmp_path: Path) -> None:
    def refused(place: Path) -> str:
        with pytest.raises(MismatchError) as caught:
            measure_fidelity(subject(case.base, case.right), subject(place), [case.right], TEXT)
        return str(caught.value)

    vocab = json.loads((case.base / "tokenizer.json").read_text())["model"]["vocab"]
    one, other = list(vocab)[40:42]
    swapped = {one: vocab[other], other: vocab[one]}
    said = refused(with_vocabulary(case.tuned, tmp_path / "swapped", swapped))
    first = min((vocab[token], token) for token in swapped)[1]
    assert "in 2 tokens of the base's, the first" in said
    assert f"number {vocab[first]} to the base, number {swapped[first]} to the tuned" in said
    # More tokens do not make up for one that moved.
    said = refused(with_vocabulary(case.tuned, tmp_path / "more", {**swapped, "new!": 300}))
    assert "in 2 tokens of the base's" in said


def stand_in(tokens: dict[str, int], rows: int = 9) -> Any:
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=rows))
    tokenizer = SimpleNamespace(get_vocab=lambda: tokens)
    model = SimpleNamespace(tokenizer=tokenizer, inner=SimpleNamespace(config=config))
    return SimpleNamespace(language_model=model)


def test_numbers_tell_what_is_common() -> None:
    base = stand_in({"a": 0, "b": 1, "d": 3})
    with pytest.raises(MismatchError, match="'b': number 1 to the base, unknown to the tuned"):
        common_vocabulary(base, stand_in({"a": 0, "d": 3}))
    with pytest.raises(MismatchError, match=r"adds 'c' as number 2, amid .* which end at 3"):
        common_vocabulary(base, stand_in({"a": 0, "b": 1, "c": 2, "d": 3}))
    with pytest.raises(MismatchError, match="adds 'c' as number 3, amid"):
        common_vocabulary(base, stand_in({"a": 0, "b": 1, "d": 3, "c": 3}))
    more = stand_in({"a": 0, "b": 1, "d": 3, "f": 7, "e": 5})
    assert common_vocabulary(base, more) == (5, ("e", "f"), (9, 9))
    assert common_vocabulary(base, stand_in({"a": 0, "b": 1, "d": 3}, 4)) == (4, (), (9, 4))


@pytest.mark.parametrize("added", [False, True])
def test_tokenizers_that_cut_otherwise_are_refused(case: Case, tmp_path: Path, added: bool) -> None:
    place = tmp_path / "tuned"
    without_merges(with_added(case.tuned, place) if added else shutil.copytree(case.tuned, place))
    text = FidelityText("a dialogue", f"<|turn|>{TEXT.text}") if added else TEXT
    with pytest.raises(MismatchError, match="cuts it otherwise"):
        cut_windows(subject(case.base), subject(place), text)


def test_rows_of_padding_do_not_count(
    case: Case, rows: Sequence[FidelityRow], tmp_path: Path
) -> None:
    tuned = subject(with_rows(case.tuned, tmp_path / "tuned", 320))
    base = subject(case.base, *case.adapters)
    found = measure_fidelity(base, tuned, case.adapters, TEXT, window=64)
    for one, other in zip(found, rows, strict=True):
        assert one.kl == pytest.approx(other.kl, rel=1e3 * EPS, abs=EPS)
        assert one.perplexity_tuned == pytest.approx(other.perplexity_tuned, rel=1e3 * EPS)
    notes = fidelity_notes(base, tuned, TEXT, found)
    assert any("300 (base) and 320 rows (tuned)" in note for note in notes)
    assert not any("heads" in note for note in fidelity_notes(base, base, TEXT, found))


def test_tokens_beyond_a_head_are_refused(case: Case) -> None:
    base = subject(case.base)
    tuned = subject(case.tuned)
    tuned.language_model.model.config.vocab_size = 100
    with pytest.raises(MismatchError, match="beyond the 100 that both models know"):
        cut_windows(base, tuned, TEXT)


def test_the_report_says_what_was_left_out(
    loragraft: CommandLine, case: Case, tmp_path: Path
) -> None:
    tuned = with_added(case.tuned, tmp_path / "tuned")
    text = tmp_path / "text.txt"
    text.write_text(TEXT.text)
    out = tmp_path / "out"
    answer = loragraft(
        "evaluate", case.base, "--adapter", f"right={case.right.path}", "--dtype", "fp32",
        "--fidelity", tuned, "--text", text, "-o", out,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    report = json.loads((out / "report.json").read_text())
    jsonschema.Draft202012Validator(schema()).validate(report)
    (row,) = report["fidelity"]
    assert (row["vocabulary"], row["added_tokens"]) == (SIZE, 3)
    assert 0.0 < row["outside"] < 1.0
    assert np.isfinite(row["kl"])
    assert "3 tokens that TUNED's adds to it did not count" in report["summary"]["verdict"]
    assert "cut by the base's tokenizer" in " ".join(answer.out.split())
    assert any("whether and when" in note for note in report["summary"]["warnings"])
    assert "did not count" in (out / "report.html").read_text()
