"""The verdict in words, on made fine-tunes of several natures."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

import made_merges as made
from loragraft.architecture.roles import Role
from loragraft.extraction.curve import curves, ladder
from loragraft.extraction.places import listed, places, spans
from loragraft.extraction.recognition import Nature, OtherTensors, Unit, recognise
from loragraft.report.curves import curve_table
from loragraft.report.page import Page

if TYPE_CHECKING:
    from loragraft.extraction.ranks.spectrum import Spectrum

KINDS = {
    "proj0": ("q_proj", Role.ATTENTION),
    "proj1": ("k_proj", Role.ATTENTION),
    "proj2": ("up_proj", Role.MLP),
    "proj3": ("down_proj", Role.MLP),
}


def units(spectra: list[Spectrum], relative: float = 0.01) -> list[Unit]:
    """Layers of four modules, whose change has a given share of their norm."""
    made_units = []
    for number, spectrum in enumerate(spectra):
        kind, role = KINDS[f"proj{number % 4}"]
        spectrum = spectrum._replace(group=kind)  # noqa: PLW2901
        base = (spectrum.delta_square or 1.0) / relative**2
        made_units.append(Unit(kind, role, number // 4, spectrum, base))
    return made_units


def cut(spectra: list[Spectrum], most: int) -> list[Spectrum]:
    """What a smaller rank would have computed."""
    return [
        spectrum._replace(
            singular_values=[values[:most] for values in spectrum.singular_values],
            optimal_squares=[squares[:most] for squares in spectrum.optimal_squares],
            residual_squares=[squares[:most] for squares in spectrum.residual_squares],
        )
        for spectrum in spectra
    ]


@lru_cache
def lora(rank: int, size: float = 3.0, seed: int = 0) -> list[Spectrum]:
    return made.merged_model(rank, size=size, seed=seed)


@lru_cache
def full(size: float = 10.0, exponent: float = 0.5, most: int = 96) -> list[Spectrum]:
    rng = np.random.default_rng(9)
    spectra = []
    for shape in ((192, 192), (128, 192), (256, 192), (192, 256)) * 2:
        base = made.weights(rng, shape)
        change = size * made.unit_in_last_place(base) * made.power_law(rng, shape, exponent)
        spectra.append(made.stored(base, change, most=most))
    return spectra


EQUAL = made.spectrum_of([])


def test_a_merged_lora() -> None:
    found = recognise(units(lora(8)))
    assert found.nature is Nature.MERGED_LORA
    assert found.sentence == "a merged LoRA of rank 8 on attention and MLP"
    assert found.evidence[0].startswith("12 of 12 changed modules end at rank 8:")
    assert found.evidence[1] == "the median relative change of 12 changed modules is 1.00%"
    assert len(found.evidence) == 2


def test_a_merged_lora_on_some_layers() -> None:
    spectra = [s if i % 4 in {0, 3} and i >= 4 else EQUAL for i, s in enumerate(lora(8))]
    found = recognise(units(spectra))
    assert found.sentence == "a merged LoRA of rank 8 on q_proj and down_proj in layers 1-2"
    assert found.evidence[-1] == "8 of 12 linear layers are equal"


def test_ranks_that_differ_by_kind() -> None:
    mixed = [a if i % 4 < 2 else b for i, (a, b) in enumerate(zip(lora(16), lora(4), strict=True))]
    found = recognise(units(mixed))
    assert found.nature is Nature.MERGED_LORA
    assert found.sentence == "a merged LoRA of rank 16 on attention and rank 4 on MLP"
    assert [line.split(":")[0] for line in found.evidence[:2]] == [
        "6 of 12 changed modules end at rank 4",
        "6 of 12 changed modules end at rank 16",
    ]


def test_a_lora_beside_what_was_trained_in_full() -> None:
    mixed = [a if i % 4 < 2 else b for i, (a, b) in enumerate(zip(lora(8), full(), strict=False))]
    found = recognise(units(mixed))
    assert found.nature is Nature.PARTLY_LORA
    assert found.sentence == (
        "a merged LoRA of rank 8 on attention; MLP changed by more than rank 96 holds"
    )


def test_norms_trained_beside_a_lora() -> None:
    others = [OtherTensors("norm", 5, 1, 0.0123), OtherTensors("embedding", 0, 1, 0.0)]
    found = recognise(units(lora(8)), others)
    assert found.sentence.endswith("on attention and MLP; 5 norms changed too")
    assert found.evidence[-1] == "5 of 6 norms changed, by at most 1.23%"


def test_a_full_fine_tune() -> None:
    found = recognise(units(full()))
    assert found.nature is Nature.FULL_FINE_TUNE
    kept = dict(zip(found.curves[-1].ranks, found.curves[-1].energy, strict=True))
    assert found.sentence == (
        "a full fine-tune (or a LoRA of a rank above 96):"
        f" rank 16 keeps {kept[16]:.2%}, rank 64 keeps {kept[64]:.2%}"
        f" and rank 96 keeps {kept[96]:.2%}"
    )
    assert 0.1 < kept[16] < kept[64] < kept[96] < 0.99


def test_a_full_fine_tune_of_the_size_of_the_rounding() -> None:
    assert recognise(units(full(size=2.0))).nature is Nature.FULL_FINE_TUNE
    assert recognise(units(full(size=0.5))).nature is Nature.LOW_RANK
    found = recognise(units(full(size=0.1)))
    assert found.nature is Nature.WITHIN_ROUNDING
    assert found.sentence.startswith("a change smaller than the rounding of the weights, of which")


def test_few_singular_values_leave_it_open() -> None:
    """What follows the computed ones may be a LoRA's or a full fine-tune's."""
    found = recognise(units(cut(full(), 16)))
    assert found.nature is Nature.BEYOND_RANK
    assert found.sentence.startswith("a change of more than rank 16, which keeps ")
    assert "a full fine-tune, or a LoRA of higher rank" in found.sentence
    found = recognise(units(cut(lora(8, size=6.0), 8)))
    assert found.nature is Nature.LOW_RANK
    assert found.sentence.startswith("a change of rank 8 or more, of which rank 8 keeps all but")
    # With a few more behind the rank, it is seen to be the last.
    assert recognise(units(cut(lora(8), 14))).nature is Nature.MERGED_LORA


def test_a_lora_that_rounding_drowns() -> None:
    found = recognise(units(lora(16, size=0.6)))
    assert found.nature is Nature.LOW_RANK
    assert "whose weaker directions the rounding has drowned" in found.sentence


def test_models_that_have_nothing_in_common() -> None:
    others = [OtherTensors("norm", 5, 0, 1.3)]
    found = recognise(units(full(), relative=1.41), others)
    assert found.nature is Nature.UNRELATED
    assert found.sentence == "these differ in everything: not the same base"
    assert "independent weights differ by about 1.41 times their norm" in found.evidence
    # A LoRA may be large, and is one all the same.
    assert recognise(units(lora(8), relative=1.41)).nature is Nature.MERGED_LORA


def test_no_linear_layer_differs() -> None:
    others = [OtherTensors("norm", 3, 0, 0.02), OtherTensors("embedding", 1, 0, 0.001)]
    found = recognise(units([EQUAL] * 4), others)
    assert found.nature is Nature.OTHER_TENSORS
    assert found.sentence == "no linear layer differs, only 3 norms and 1 embedding"
    assert found.evidence[0] == "4 of 4 linear layers are equal"
    assert found.curves == ()
    assert recognise(units([EQUAL])).nature is Nature.NOTHING
    assert recognise([]).sentence == "nothing that was compared differs"


def test_zero_weights() -> None:
    """A base of zeros has no norm to compare with."""
    zero = [Unit(u.kind, u.role, u.layer, u.spectrum, 0.0) for u in units(lora(8))]
    assert recognise(zero).nature is Nature.MERGED_LORA
    assert zero[0].relative_change == float("inf")


def test_it_travels_as_plain_data() -> None:
    found = recognise(units(lora(8)))
    data = json.loads(json.dumps(found.to_json(2)))
    assert data["nature"] == "merged_lora"
    assert [curve["kind"] for curve in data["curves"]] == [
        "q_proj",
        "k_proj",
        "up_proj",
        "down_proj",
        "all",
    ]
    whole = data["curves"][-1]
    assert whole["ranks"] == [1, 2, 4, 8, 16, 32, 64]
    assert whole["bytes"][3] == 2 * 8 * 3 * sum(sum(shape) for shape in made.SHAPES)


def test_curves() -> None:
    one = made.spectrum_of([3.0, 2.0, 1.0], rest=2.0, shape=(30, 20), group="a")
    two = made.spectrum_of([3.0], shape=(10, 10), group="b")
    block = made.together([one, one])._replace(group="a")
    a, b, whole = curves([one, two, EQUAL, block])
    assert (a.kind, a.modules, a.ranks) == ("a", 2, (1, 2, 3))
    assert a.energy == pytest.approx((9 / 16, 13 / 16, 14 / 16))
    assert a.parameters == (150, 300, 450)
    # A module that has no more triplets keeps what it has, at no further cost.
    assert (b.energy, b.parameters) == ((1.0, 1.0, 1.0), (20, 20, 20))
    assert whole.energy == pytest.approx((36 / 57, 48 / 57, 51 / 57))
    assert whole.parameters == (170, 320, 470)
    assert curves([EQUAL]) == curves([]) == ()


def test_ladders() -> None:
    assert [ladder(most) for most in (0, 1, 2, 3, 16, 24)] == [
        (),
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 4, 8, 16),
        (1, 2, 4, 8, 16, 24),
    ]


def test_the_table_needs_no_colours() -> None:
    one = made.spectrum_of([3.0, 2.0, 1.0], rest=2.0, shape=(3000, 2000), group="q_proj")
    text = Page((curve_table([found.to_json(2) for found in curves([one])]),)).plain(80)
    assert text is not None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    assert lines[0].split() == ["energy", "kept", "at", "rank", "1", "2", "3"]
    assert lines[2].split() == ["q_proj", "56.25%", "81.25%", "87.50%"]
    assert lines[3].split() == ["size", "10.00", "kB", "20.00", "kB", "30.00", "kB"]


def test_places() -> None:
    everything = units([EQUAL] * 8)
    head = Unit("lm_head", Role.HEAD, None, EQUAL, 1.0)
    router = Unit("gate", Role.ROUTER, 1, EQUAL, 1.0)
    everything += [head, router]
    assert places([head, everything[2]], everything) == "up_proj and head in layer 0"
    assert places([router], everything) == "routers"
    assert places(everything, everything) == "attention, MLP, routers and head"


def test_layer_numbers() -> None:
    assert spans([3]) == "layer 3"
    assert spans([0, 1, 2, 5, 7, 8]) == "layers 0-2, 5 and 7-8"
    assert spans(list(range(0, 14, 2))) == "7 layers"
    assert listed(["a"]) == "a"
