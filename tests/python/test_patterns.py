"""Regular expressions of adapter configs: those that people write are tried, others end at once."""

from __future__ import annotations

import re
import time

import pytest
import torch

from loragraft.adapter.patterns import Pattern
from loragraft.adapter.peft import read_adapter
from loragraft.adapter.peft_config import factor_keys
from loragraft.adapter.target_modules import exact_regex
from loragraft.errors import FormatError
from test_peft_reading import PLAIN, write_raw

#: As PEFT compares rank_pattern and alpha_pattern.
FRAME = r"(.*\.)?({})$"
NAMES = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.31.mlp.down_proj",
    "model.language_model.layers.10.mlp.experts.127.gate_up_proj",
    "base_model.vision_tower.vision_model.encoder.layers.22.self_attn.out_proj",
    "lm_head",
]
WRITTEN = [
    "q_proj",
    "^model.layers.0.self_attn.q_proj",
    r".*\.(q|k|v)_proj",
    r"model\.layers\.(?:[0-9]|1[0-9])\.mlp\..*",
    exact_regex(NAMES),
    exact_regex(
        f"model.layers.{i}.mlp.experts.{e}.{w}_proj"
        for i in range(40)
        for e in range(64)
        for w in ("up", "down")
    ),
]
#: As fine-tuning programs write target_modules.
TARGETS = [
    r"(?i)LM_HEAD",
    r"^(model|language_model)(?!.*(lm_head|output|emb|wte|shared)).*",
    r"^(language_model|model)(?=\.).*\.(o_proj|q_proj|gate_proj|up_proj|down_proj)$",
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\."
    r"(?:(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj)))",
]
ENDLESS = [
    "(a+)+b",
    "(a|a)*b",
    "(a*)*",
    r"(\w+\.)*q_proj",
    "((a?){9})*",
    "(a|b|ab)+c",
    r"(a*)\1{3,}",
]


@pytest.mark.parametrize(
    ("text", "frame"), [(t, "{}") for t in (*WRITTEN, *TARGETS)] + [(t, FRAME) for t in WRITTEN]
)
def test_what_people_write_is_tried(text: str, frame: str) -> None:
    pattern = Pattern.parse(text, "key", "file", frame)
    plain = re.compile(frame.replace("{}", text))
    for name in NAMES:
        assert pattern.match(name, "key", "file") == bool(plain.match(name))
        assert pattern.match(name, "key", "file", full=True) == bool(plain.fullmatch(name))


@pytest.mark.parametrize("text", ENDLESS)
def test_repeats_inside_of_repeats_are_refused(text: str) -> None:
    with pytest.raises(FormatError, match=r"file: key has .* which could take forever"):
        Pattern.parse(text, "key", "file")


@pytest.mark.parametrize("text", ["(a?)" * 40 + "b", ".*" * 12 + "b", "(a|a)" * 30 + "b"])
def test_long_rows_of_repeats_are_refused(text: str) -> None:
    with pytest.raises(FormatError, match="could take forever"):
        Pattern.parse(text, "key", "file").match("a" * 60, "key", "file")


def test_an_expression_that_is_not_needed_is_not_tried(tmp_path) -> None:
    (module,) = read_adapter(
        write_raw(tmp_path / "x", PLAIN | {"target_modules": "(a+)+b"})
    ).modules
    assert module.rank == 2


@pytest.mark.parametrize("text", ["(", "[", "*", "a" * 10 + "(" * 5000])
def test_what_is_none(text: str) -> None:
    with pytest.raises(FormatError, match="no regular expression"):
        Pattern.parse(text, "key", "file")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "config",
    [
        {"rank_pattern": {"(a+)+b": 2}},
        {"alpha_pattern": {"(a+)+b": 2}},
        {"target_modules": "(a+)+b"},
        {"target_modules": "("},
        {"target_modules": ".*a" * 9 + "b"},
    ],
)
def test_no_adapter_runs_forever(config, tmp_path) -> None:
    key_a, key_b = factor_keys("a" * 200)
    tensors = {key_a: torch.ones(2, 6), key_b: torch.ones(5, 2)}
    directory = write_raw(tmp_path / "x", PLAIN | {"target_parameters": ["q"]} | config, tensors)
    begin = time.monotonic()
    with pytest.raises(FormatError, match=r"could take forever|no regular expression"):
        read_adapter(directory)
    assert time.monotonic() - begin < 5.0
