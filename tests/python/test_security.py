"""What SECURITY.md promises: no pickles, no code out of models, no network unasked."""

from __future__ import annotations

import ast
import json
import pickle
import re
import shutil
import socket
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import asked_models as made
import loragraft as package
from command_line import SMALL, CommandLine, loragraft, pair
from test_peft_reading import PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

__all__ = ["loragraft", "pair"]

SOURCES = Path(package.__file__).parent
ROOT = Path(__file__).parents[2]
PICKLES = ("pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt")
#: Commands by what they take, BASE, TUNED and ADAPTER by name; OUT is a new folder.
COMMANDS = {
    "extract": ("extract", "BASE", "TUNED", "-o", "OUT", *SMALL),
    "transfer": ("transfer", "ADAPTER", "--source", "BASE", "--target", "TUNED", "-o", "OUT"),
    "compare": ("compare", "BASE", "TUNED"),
    "verify": ("verify", "BASE", "TUNED", "ADAPTER"),
    "inspect": ("inspect", "BASE"),
    "inspect an adapter": ("inspect", "ADAPTER"),
    "merge": ("merge", "BASE", "ADAPTER", "-o", "OUT"),
    "evaluate": ("evaluate", "BASE", "--adapter", "x=ADAPTER", "--fidelity", "TUNED", "-o", "OUT"),
}
PLACES = [
    (name, place)
    for name, words in COMMANDS.items()
    for place in ("BASE", "TUNED", "ADAPTER")
    if any(word.endswith(place) for word in words)
]


class Bomb:
    """Its pickle makes a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.mark), "w")


def command(name: str, places: dict[str, Path]) -> list[str]:
    """The words of a command, with paths in their places."""
    pattern = re.compile("|".join(places))
    return [pattern.sub(lambda place: str(places[place[0]]), word) for word in COMMANDS[name]]


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """What every command can work on."""
    text = tmp_path / "text.txt"
    text.write_text("The cell wall of plants is made of cellulose. " * 20)
    return {
        "BASE": made.save_model(tmp_path / "base", seed=0),
        "TUNED": made.save_model(tmp_path / "tuned", seed=1),
        "ADAPTER": made.save_adapter(tmp_path / "adapter"),
        "OUT": tmp_path / "out",
    }


@pytest.mark.parametrize("file", PICKLES)
@pytest.mark.parametrize("shape", ["file", "folder"])
@pytest.mark.parametrize(("name", "place"), PLACES)
def test_no_command_reads_a_pickle(
    loragraft: CommandLine,
    pair: tuple[Path, Path, Path],
    tmp_path: Path,
    name: str,
    place: str,
    shape: str,
    file: str,
) -> None:
    mark = tmp_path / "executed"
    folder = tmp_path / "pickled"
    folder.mkdir()
    if place == "ADAPTER":
        file = "adapter_model" + Path(file).suffix
        (folder / "adapter_config.json").write_text(json.dumps(PLAIN))
    else:
        shutil.copy(pair[0] / "config.json", folder)
    (folder / file).write_bytes(pickle.dumps(Bomb(mark)))
    places = dict(zip(("BASE", "TUNED", "ADAPTER"), pair, strict=True)) | {"OUT": tmp_path / "out"}
    places[place] = folder / file if shape == "file" else folder
    answer = loragraft(*command(name, places))
    assert answer.code == 3, answer.err
    assert "pickle" in answer.error
    assert not mark.exists()
    assert not places["OUT"].exists()


def test_no_code_of_a_model_is_ever_trusted() -> None:
    trusted = 0
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path
                trusted += 1
            names = {a.name for a in node.names} if isinstance(node, ast.Import) else set()
            assert not names & {"pickle", "dill", "cloudpickle", "shelve", "marshal"}, path
            call = node.func if isinstance(node, ast.Call) else None
            assert not (isinstance(call, ast.Name) and call.id in {"eval", "exec"}), path
    assert trusted >= 2, "where transformers loads a model and a tokenizer"


@pytest.mark.parametrize("name", ["evaluate", "extract", "inspect", "compare"])
def test_a_model_that_brings_code_has_none_of_it_run(
    loragraft: CommandLine, models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    mark = tmp_path / "executed"
    for side in ("BASE", "TUNED"):
        config = json.loads((models[side] / "config.json").read_text())
        classes = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
        config |= {"model_type": "brings-code", "auto_map": classes}
        (models[side] / "config.json").write_text(json.dumps(config))
        settings = json.loads((models[side] / "tokenizer_config.json").read_text())
        settings["auto_map"] = {"AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"]}
        (models[side] / "tokenizer_config.json").write_text(json.dumps(settings))
        (models[side] / "code.py").write_text(f"open({str(mark)!r}, 'w')\n")
    answer = loragraft(*command(name, models))
    assert not mark.exists()
    if name == "evaluate":
        assert answer.code == 3, answer.err


@pytest.mark.parametrize(
    "config",
    [
        {"megatron_config": {"a": 1}, "megatron_core": "brought_along"},
        {"auto_mapping": {"base_model_class": "X", "parent_library": "brought_along"}},
    ],
)
def test_an_adapter_that_names_a_module_has_it_not_imported(
    loragraft: CommandLine,
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
) -> None:
    mark = tmp_path / "executed"
    (tmp_path / "brought_along.py").write_text(f"open({str(mark)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = models["ADAPTER"] / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    data = made.write_questions(tmp_path / "data" / "ARC-Challenge" / "test.jsonl", 3).parents[1]
    adapter = f"x={models['ADAPTER']}"
    answer = loragraft(
        "evaluate", models["BASE"], "--adapter", adapter, "--data", data, "-o", models["OUT"]
    )
    assert not mark.exists()
    if "megatron_config" in config:
        assert answer.code == 3, answer.err
        assert "megatron_config" in answer.error


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_uses_the_network(
    loragraft: CommandLine,
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    for way in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, way, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    text = tmp_path / "words.txt"
    text.write_text("The cell wall of plants is made of cellulose. " * 20)
    words = command(name, models)
    if name == "evaluate":
        words += ["--text", str(text)]
    answer = loragraft(*words)
    assert answer.code in {0, 4}, answer.err
    assert "network" not in answer.err


@pytest.mark.parametrize("name", ["demo", "doctor"])
def test_neither_do_those_without_models(
    loragraft: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    answer = loragraft(name)
    assert answer.code == 0, answer.err


def test_dependencies_have_lower_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += [entry for entry in extra if not entry.startswith("loragraft[")]
    unbound = [entry for entry in wanted if not re.search(r">=|==", entry)]
    assert unbound == []


def audit() -> ModuleType:
    spec = spec_from_file_location("audit", ROOT / "tests" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_audit_looks_up_what_is_installed() -> None:
    found = audit().installed(["numpy>=1.26", "no-such-package>=3", "huggingface-hub>=0.30"])
    assert {"numpy", "huggingface-hub", "tqdm"} <= set(found)
    assert "no-such-package" not in found


def test_the_audit_tells_vulnerable_from_unknown() -> None:
    fine = {"name": "a", "version": "1", "vulns": []}
    bad = fine | {"vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
    unknown = {"name": "b", "skip_reason": "not found"}
    verdict = audit().verdict
    assert verdict([fine, unknown], "") == (0, "audit: 1 packages, 0 vulnerabilities, 1 not listed")
    code, text = verdict([bad], "")
    assert code == 1
    assert "a 1: CVE-1, mended in 2" in text
    assert verdict([unknown], "no route\n")[0] == 0
    assert "skipped" in verdict([], "no route")[1]
