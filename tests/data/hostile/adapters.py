"""Adapters: configs of wrong types, factors that do not fit, regular expressions without end."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hostile import toy
from hostile.case import ADAPTER, Case

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_KIND: Final = "adapter"
_NO_TRANSFER: Final = ADAPTER[:3]
_TEXTS: Final = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "not UTF-8": b'{"peft_type": "\xff"}',
    "cut off": b'{"peft_type": "LO',
    "a key twice": b'{"peft_type": "LORA", "r": 2, "r": 3}',
    "NaN": b'{"peft_type": "LORA", "r": 2, "lora_alpha": NaN}',
    "100,000 deep": b'{"a":' * 100_000,
    "a rank of 5,000 digits": b'{"peft_type": "LORA", "r": ' + b"2" * 5000 + b"}",
}
_WRONG: Final[dict[str, tuple[Any, ...]]] = {
    "peft_type": (None, 7, "IA3", "lora", ["LORA"], {}, "\x1b[31m"),
    "r": (None, 0, -1, 2.0, "2", True, [2], {}, 10**400, 3),
    "lora_alpha": (None, "2", True, [2], {}, 10**400, "inf"),
    "rank_pattern": (7, [["q_proj", 2]], "q_proj", {"q_proj": "2"}, {"q_proj": None},
                     {"q_proj": 0}, {"q_proj": 10**400}, {"(": 2}, {"a{99999999999}": 2},
                     {"(?P<a>x)(?P<a>y)": 2}, {"q_proj": [2]}, {"*": 2}),
    "alpha_pattern": (7, {"q_proj": "2"}, {"q_proj": [1]}, {"[": 2}, {"q_proj": True}),
    "target_parameters": (7, "all", [7], {"a": 1}, [None]),
    "modules_to_save": (7, "lm_head", [7], [""], {"a": 1}, [None]),
    "use_rslora": ("false", 1, [0], {"a": 0}, "no"),
    "use_dora": (True, "true", 1),
    "layer_replication": ([[0, 4]],),
    "alora_invocation_tokens": ([1],),
    "init_lora_weights": ("pissa", "PISSA_niter_4", "olora", "loftq", "corda"),
    "ensure_weight_tying": ("false", 1),
}  # fmt: skip
_LEGAL: Final[dict[str, tuple[Any, ...]]] = {
    "base_model_name_or_path": (None, 7, [], {}, "\x1b[31m", "../../etc"),
    "target_modules": (None, 7, {}, "(", "(a+)+$", ["\x1b[31m"]),
    "task_type": (None, 7, {}, []),
    "bias": (None, "none"),
    "modules_to_save": (None, []),
    "rank_pattern": (
        None,
        {},
        {"q_proj": 2},
        {r"model\.layers\.[01]\..*": 2},
        {".*": 2},
        {"[[a]": 2},
        {"self.attn.q.proj": 2, "(q|k)_proj": 3},
    ),
    "alpha_pattern": ({"q_proj": 1}, {".*q_proj": 0}),
    "use_rslora": (None, False, True),
    "inference_mode": ("yes", 7),
    "unknown_key": ([[[]]], {"a": None}),
}
#: Patterns on which a backtracking matcher spends more than a lifetime.
_ENDLESS: Final = (
    "(a+)+b",
    "(.*)*x",
    "(.*.*.*.*.*.*.*.*.*.*)x",
    "(([a-z_.0-9])+.)+[A-Z]([a-z])+",
    "(?:[a-z_.0-9]+)*!",
    "(model|mode|m|o|d|e|l|.)*!",
    "(.?){500}(.){500}!",
    "(?=(.*)*x).*",
    "(.|.)*!",
)


def _config(content: object, directory: Path) -> None:
    toy.write_adapter(directory, config=content)


def _factors(changes: dict[str, toy.Tensor | None], config: object, directory: Path) -> None:
    found = {**toy.factors(), **changes}
    kept = {name: tensor for name, tensor in found.items() if tensor is not None}
    toy.write_adapter(directory, kept, config)


def _key(module: str, side: str) -> str:
    return f"base_model.model.{module}.lora_{side}.weight"


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for name, content in _TEXTS.items():
        yield Case(_KIND, name, partial(_config, content), ADAPTER, says="adapter_config.json")
    for key, values in _WRONG.items():
        for value in values:
            make = partial(_config, toy.adapter_config(**{key: value}))
            yield Case(_KIND, f"{key} is {_short(value)}", make, _NO_TRANSFER)
    for key, values in _LEGAL.items():
        for value in values:
            make = partial(_config, toy.adapter_config(**{key: value}))
            yield Case(_KIND, f"{key} is {_short(value)} (legal)", make, _NO_TRANSFER, (0,))
    for pattern in _ENDLESS:
        for key, value in (("rank_pattern", 2), ("alpha_pattern", 2)):
            make = partial(_config, toy.adapter_config(**{key: {pattern: value}}))
            name = f"{key} {pattern}"
            yield Case(_KIND, name, make, ADAPTER[:1], (0, 3))
        make = partial(_experts, pattern)
        yield Case(_KIND, f"target_modules {pattern}", make, ADAPTER[:1], (0, 3))
    for depth in (300, 900, 950, 985, 1000):
        for key in ("peft_type", "r", "modules_to_save", "rank_pattern", "a"):
            make = partial(_deep, depth, key)
            codes = (3,) if key != "a" else (0, 3)
            yield Case(_KIND, f"{key} {depth} lists deep", make, _NO_TRANSFER, codes)
    many = {f"model.layers.{i}.q_proj": 2 for i in range(200_000)}
    make = partial(_config, toy.adapter_config(rank_pattern=many))
    yield Case(_KIND, "200,000 patterns", make, ADAPTER[:1], (0, 3), alone=True)
    yield from _factor_cases()
    yield from _row_cases()
    yield from _report_cases()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:20]}… of {len(text)}"


def _experts(pattern: str, directory: Path) -> None:
    """Only beside target_parameters does anybody ask what target_modules hits."""
    config = toy.adapter_config(target_modules=pattern, target_parameters=["down_proj"])
    toy.write_adapter(directory, config=config)


def _deep(depth: int, key: str, directory: Path) -> None:
    rest = '"peft_type":"LORA","r":2,' if key not in {"peft_type", "r"} else ""
    rest = '"peft_type":"LORA",' if key == "r" else rest
    text = f'{{{rest}"{key}":{"[" * depth}{"]" * depth}}}'
    toy.write_adapter(directory, config=text.encode())


def _factor_cases() -> Iterator[Case]:
    a, b = _key(toy.Q0, "A"), _key(toy.Q0, "B")
    rank, rows, columns = toy.RANK, toy.ROWS, toy.COLUMNS
    broken: dict[str, dict[str, toy.Tensor | None]] = {
        "A without B": {b: None},
        "B without A": {a: None},
        "A of three dimensions": {a: toy.zeros("BF16", [1, rank, columns])},
        "A of one dimension": {a: toy.zeros("BF16", [rank * columns])},
        "A without rows": {a: toy.zeros("BF16", [0, columns])},
        "A without columns": {a: toy.zeros("BF16", [rank, 0])},
        "rank 3 where the config says 2": {a: toy.zeros("BF16", [3, columns]),
                                           b: toy.zeros("BF16", [rows, 3])},
        "A and B of different ranks": {b: toy.zeros("BF16", [rows, 3])},
        "rank 4 as of two experts": {a: toy.zeros("BF16", [4, columns]),
                                     b: toy.zeros("BF16", [rows, 4])},
        "A in I32": {a: toy.zeros("I32", [rank, columns])},
        "A in F64": {a: toy.zeros("F64", [rank, columns])},
        "A in F4": {a: toy.zeros("F4", [rank, columns])},
        "A in fp8": {a: toy.zeros("F8_E4M3", [rank, columns])},
        "a base layer that is not there": {
            _key(f"{toy.Q0}.base_layer", "A"): toy.zeros("BF16", [rank, columns]),
            _key(f"{toy.Q0}.base_layer", "B"): toy.zeros("BF16", [rows, rank])},
    }  # fmt: skip
    for name, changes in broken.items():
        make = partial(_factors, changes, None)
        yield Case(_KIND, name, make, ADAPTER, (3,))
    misfits: dict[str, dict[str, toy.Tensor | None]] = {
        "A of another width": {a: toy.zeros("BF16", [rank, columns + 1])},
        "B of another height": {b: toy.zeros("BF16", [rows + 1, rank])},
        "a module that the base lacks": {
            _key("model.layers.9.self_attn.q_proj", "A"): toy.zeros("BF16", [rank, columns]),
            _key("model.layers.9.self_attn.q_proj", "B"): toy.zeros("BF16", [rows, rank])},
        "a module with a path for a name": {
            _key("../../../etc", "A"): toy.zeros("BF16", [rank, columns]),
            _key("../../../etc", "B"): toy.zeros("BF16", [rows, rank])},
        "factors of a norm": {
            _key("model.norm", "A"): toy.zeros("BF16", [rank, columns]),
            _key("model.norm", "B"): toy.zeros("BF16", [columns, rank])},
    }  # fmt: skip
    for name, changes in misfits.items():
        yield Case(_KIND, name, partial(_factors, changes, None), ADAPTER[1:], (4,))
    nothing = partial(toy.write_adapter, found={"x": toy.zeros("BF16", [2])})
    yield Case(_KIND, "no factors", nothing, ADAPTER)
    empty = partial(toy.write_adapter, found={})
    yield Case(_KIND, "no tensors", empty, ADAPTER)


def _row_cases() -> Iterator[Case]:
    """Rows of the embedding, which has 16."""
    key = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    rows = toy.zeros("BF16", [2, toy.COLUMNS])
    wrong: tuple[Any, ...] = (None, 7, "0,1", [0], [0, 0], [0, -1], [0, 1.0], [0, True], [0, "1"],
                              [[0, 1]], [0, 2**63], [2**70, 1], {"embed_tokens": [0]},
                              {"lm_head": [0, 1]}, {"embed_tokens": "01"}, {})  # fmt: skip
    for value in wrong:
        config = toy.adapter_config(trainable_token_indices=value)
        make = partial(_factors, {key: rows}, config)
        yield Case(_KIND, f"trainable_token_indices {value!r}", make, _NO_TRANSFER)
    for value in ([0, 16], [0, 2**63 - 1]):
        config = toy.adapter_config(trainable_token_indices=value)
        make = partial(_factors, {key: rows}, config)
        yield Case(_KIND, f"trainable_token_indices {value!r}", make, ADAPTER[1:3], (0, 4))
    for shape in ([2, 13], [24], [2, 12, 1], [2, 0], []):
        config = toy.adapter_config(trainable_token_indices=[0, 1])
        make = partial(_factors, {key: toy.zeros("BF16", shape)}, config)
        yield Case(_KIND, f"token rows of shape {shape}", make, ADAPTER[2:3], (3, 4))
    whole = "base_model.model.model.norm.weight"
    for dtype, shape in (("BF16", [13]), ("I32", [12]), ("F4", [12]), ("BF16", []), ("BF16", [0])):
        config = toy.adapter_config(modules_to_save=["norm"])
        make = partial(_factors, {whole: toy.zeros(dtype, shape)}, config)
        yield Case(_KIND, f"a whole norm in {dtype} {shape}", make, ADAPTER[2:3], (4,))


def _report_cases() -> Iterator[Case]:
    """A report.json that lies is a warning; it decides nothing."""
    head = '{"schema":"loragraft.report/1","command":"extract","modules":'
    reports = {
        "nothing": "",
        "a list": "[]",
        "modules are a text": f'{head}"x"}}',
        "deep": head + "[" * 100_000,
        "950 deep": head + "[" * 950 + "]" * 950 + "}",
        "a figure of 400 digits": f'{head}[{{"name":"{toy.Q0}","delta_norm":1{"0" * 400}}}]}}',
        "a figure of 5,000 digits": f'{head}[{{"name":"{toy.Q0}","delta_norm":1{"0" * 5000}}}]}}',
        "NaN": f'{head}[{{"name":"{toy.Q0}","relative_error":NaN,"energy":Infinity}}]}}',
        "a text": f'{head}[{{"name":"{toy.Q0}","relative_error":"small","energy":[1]}}]}}',
        "an escape code": f'{head}[{{"name":"\\u001b[31m\\n","relative_error":1}}]}}',
        "half a surrogate pair": f'{head}[{{"name":"\\ud800","relative_error":1}}]}}',
    }
    for name, text in reports.items():
        make = partial(_with_report, text)
        yield Case(_KIND, f"report.json: {name} (legal)", make, ADAPTER[1:2], (0,))


def _with_report(text: str, directory: Path) -> None:
    toy.write_adapter(directory)
    (directory / "report.json").write_text(text, "utf-8")
