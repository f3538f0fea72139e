"""Data sets of lm-evaluation-harness's tasks in miniature, found where it looks for them first.

`datasets` takes an id such as ``baber/piqa`` for a directory, if there is one of that name in the
current directory.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import asked_models as made

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Rows = Sequence[Mapping[str, Any]]

COUNT = 7


def questions() -> list[dict[str, Any]]:
    """Some of ARC's with four answers, for others to be made of."""
    rows = map(json.loads, made.sample_lines())
    return [row for row in rows if len(row["choices"]["text"]) == 4][: COUNT + 5]


def write_all(place: Path) -> None:
    """Write the data of all tasks below a directory."""
    own = [_parts(number, row) for number, row in enumerate(questions())]
    asked, shown = own[:COUNT], own[COUNT:]
    for name, config, make in (
        ("baber/piqa", None, _piqa),
        ("Rowan/hellaswag", None, _hellaswag),
        ("allenai/winogrande", "winogrande_xl", _winogrande),
        ("aps/super_glue", "boolq", _boolq),
        ("aps/super_glue", "copa", _copa),
        ("tau/commonsense_qa", None, _commonsense),
        ("Rakuten/JGLUE", "JCommonsenseQA", _japanese),
    ):
        rows = {"validation": list(map(make, asked)), "train": list(map(make, shown))}
        _write(place / name, config, rows)
    _write(
        place / "cais/mmlu",
        "anatomy",
        {"test": list(map(_mmlu, asked)), "dev": list(map(_mmlu, shown))},
    )
    for config in ("ARC-Easy", "ARC-Challenge"):
        rows = {"test": questions()[:COUNT], "validation": [], "train": questions()[COUNT:]}
        _write(place / "allenai/ai2_arc", config, {name: one for name, one in rows.items() if one})
    _write(
        place / "TIGER-Lab/MMLU-Pro",
        None,
        {"test": list(map(_letters, asked)), "validation": list(map(_letters, shown))},
    )
    _write(place / "nyu-mll/blimp", "adjunct_island", {"train": list(map(_blimp, asked))})
    # The first document of each is in order, which is all that the harness looks at on loading.
    wrong = [_social(one, 1 if one["number"] == 0 else 9) for one in asked]
    _write(place / "lighteval/siqa", None, {"train": wrong, "validation": wrong})
    wrong = [_openbook(one, "A" if one["number"] == 0 else "Z") for one in asked]
    _write(
        place / "allenai/openbookqa", "main", {"train": wrong, "validation": wrong, "test": wrong}
    )
    targets = {"validation": list(map(_truthful, asked))}
    _write(place / "truthfulqa/truthful_qa", "multiple_choice", targets)


def _write(place: Path, config: str | None, splits: Mapping[str, Rows]) -> None:
    """Write splits, and the card that says which files belong to which configuration."""
    own = place / (config or "")
    own.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        (own / f"{split}.jsonl").write_text(text, encoding="utf-8")
    if config is None:
        return
    configs = {path.name: path for path in sorted(place.iterdir()) if path.is_dir()}
    listed = [
        {
            "config_name": name,
            "data_files": [
                {"split": file.stem, "path": f"{name}/{file.name}"}
                for file in sorted(path.glob("*.jsonl"))
            ],
        }
        for name, path in configs.items()
    ]
    (place / "README.md").write_text(f"---\nconfigs: {json.dumps(listed)}\n---\n")


def _parts(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "number": number,
        "question": row["question"],
        "answers": row["choices"]["text"],
        "gold": row["choices"]["label"].index(row["answerKey"]),
    }


def _piqa(one: Mapping[str, Any]) -> dict[str, Any]:
    first, second = one["answers"][:2]
    return {"goal": one["question"], "sol1": first, "sol2": second, "label": one["number"] % 2}


def _hellaswag(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ind": one["number"],
        "activity_label": "Asking [about]",
        "ctx_a": one["question"],
        "ctx_b": "the answer is",
        "endings": [f"{text} [title] so  it is" for text in one["answers"]],
        "label": str(one["gold"]),
    }


def _winogrande(one: Mapping[str, Any]) -> dict[str, Any]:
    first, second = one["answers"][:2]
    sentence = f"{one['question']} It is _ because of the light."
    answer = str(1 + one["number"] % 2)
    return {"sentence": sentence, "option1": first, "option2": second, "answer": answer}


def _boolq(one: Mapping[str, Any]) -> dict[str, Any]:
    passage = ". ".join(one["answers"])
    # Not unique, as in data sets that number paragraphs.
    asked = {"question": one["question"], "passage": passage}
    return {**asked, "id": one["number"] // 2, "label": one["number"] % 2}


def _copa(one: Mapping[str, Any]) -> dict[str, Any]:
    first, second = one["answers"][:2]
    return {
        "premise": one["question"],
        "choice1": first,
        "choice2": second,
        "question": ("cause", "effect")[one["number"] % 2],
        "label": one["number"] % 2,
    }


def _commonsense(one: Mapping[str, Any]) -> dict[str, Any]:
    texts = [*one["answers"], "none of them"]
    choices = {"label": list("ABCDE"), "text": texts}
    return {"question": one["question"], "choices": choices, "answerKey": "ABCDE"[one["gold"]]}


def _japanese(one: Mapping[str, Any]) -> dict[str, Any]:
    texts = {f"choice{number}": f"{text}。" for number, text in enumerate(one["answers"])}
    return {"question": one["question"], **texts, "choice4": "どれでもない", "label": one["gold"]}


def _mmlu(one: Mapping[str, Any]) -> dict[str, Any]:
    return {"question": one["question"], "choices": one["answers"], "answer": one["gold"]}


def _letters(one: Mapping[str, Any]) -> dict[str, Any]:
    return {"question": one["question"], "options": one["answers"], "answer": "ABCD"[one["gold"]]}


def _blimp(one: Mapping[str, Any]) -> dict[str, Any]:
    first, second = one["answers"][:2]
    return {"sentence_good": f"{first} is there.", "sentence_bad": f"there {second} is."}


def _truthful(one: Mapping[str, Any]) -> dict[str, Any]:
    targets = {"choices": one["answers"], "labels": [1, 0, 1, 0]}
    only = {"choices": one["answers"], "labels": [1, 0, 0, 0]}
    return {"question": one["question"], "mc1_targets": only, "mc2_targets": targets}


def _social(one: Mapping[str, Any], label: int) -> dict[str, Any]:
    answers = dict(zip(("answerA", "answerB", "answerC"), one["answers"][:3], strict=True))
    return {"context": "So it is.", "question": one["question"], **answers, "label": str(label)}


def _openbook(one: Mapping[str, Any], key: str) -> dict[str, Any]:
    choices = {"text": one["answers"], "label": list("ABCD")}
    return {"question_stem": one["question"], "choices": choices, "answerKey": key}
