"""Hub ids without a network: one clear line at once, whatever the client library raises."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from loragraft import hub
from loragraft.checkpoint import open_checkpoint
from loragraft.errors import FormatError, MissingDependencyError

ID = "some-owner/some_model.v1"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def unreachable(monkeypatch):
    """No network: what the client raises where the name of the Hub cannot be looked up."""

    def fail(*_args, **_kwargs):
        raise httpx2.ConnectError("[Errno -2] Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)


@pytest.fixture
def reachable(monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_args, **_kwargs: None)


def refused(reference: str = ID) -> str:
    """The message of the FormatError: one printable line, and soon."""
    started = time.perf_counter()
    with pytest.raises(FormatError) as caught:
        hub.download(reference)
    assert time.perf_counter() - started < 5
    assert caught.value.exit_code == 3
    message = str(caught.value)
    assert message.isprintable()
    return message


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "gpt2",
        "a/b/c",
        "/a/b",
        "./a/b",
        "../b",
        "a/..",
        "a/b/",
        "a//b",
        "-a/b",
        "a/.b",
        "a/b.",
        "a/b--c",
        "a/b..c",
        "a/b@",
        "a/b@../../x",
        "a/b@x..y",
        "a/b@x y",
        "a b/c",
        "a/b\n",
        "a/b\x1b[31m",
        "a/b\0",
        "a/" + "b" * 97,
        "https://huggingface.co/a/b",
        "C:\\models\\base",
    ],
)
def test_what_is_no_id_is_never_asked_for(reference, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", pytest.fail)
    assert "no such file or directory, and no Hub id either" in refused(reference)


@pytest.mark.usefixtures("offline")
def test_offline_mode():
    message = refused()
    assert message.startswith(f"{ID}: no path here, and as a Hub id: not in the local cache")
    assert "HF_HUB_OFFLINE" in message
    assert "give a local directory" in message


@pytest.mark.usefixtures("offline")
def test_offline_mode_through_open_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match="not in the local cache"):
        open_checkpoint(f"{ID}@v1")


def test_offline_mode_from_the_environment(tmp_path):
    package = Path(hub.__file__).parents[1]
    script = (
        "from loragraft import hub\n"
        "try:\n"
        f"    hub.download({ID!r})\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": str(package),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"FormatError {ID}: no path here")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


@pytest.mark.usefixtures("unreachable")
def test_no_network():
    message = refused()
    assert "not in the local cache, and the Hub cannot be reached" in message
    assert "Name or service not known" in message


def test_network_that_never_answers(monkeypatch):
    """The question to the Hub has a time limit; without one a dropped packet costs minutes."""
    limits = []

    def time_out(_self, _repository, *, revision, timeout):
        assert revision == "v2"
        limits.append(timeout)
        raise httpx2.ConnectTimeout("timed out")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", time_out)
    assert "ConnectTimeout: timed out" in refused(f"{ID}@v2")
    assert limits
    assert max(limits) < 5


def http_error(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    request = httpx2.Request("GET", "https://huggingface.co/api/models/x")
    return kind(
        "first line\n\nsecond \x1b[31mline", response=httpx2.Response(status, request=request)
    )


REAL_ERRORS = [
    (http_error(errors.GatedRepoError, 403), f"terms on https://huggingface.co/{ID} and log in"),
    (http_error(errors.RepositoryNotFoundError, 401), "no such model, or it is private"),
    (http_error(errors.RevisionNotFoundError, 404), "not this revision"),
    (http_error(errors.DisabledRepoError, 403), "DisabledRepoError: first line second"),
    (http_error(errors.HfHubHTTPError, 503), "HfHubHTTPError: first line second"),
    (errors.LocalEntryNotFoundError("not\nhere"), "not in the local cache"),
    (errors.IncompleteSnapshotError("only\nhalf", snapshot_path="x"), "not in the local cache"),
    (errors.OfflineModeIsEnabled("offline"), "the download failed (OfflineModeIsEnabled"),
    (errors.HFValidationError("bad id"), "the download failed (HFValidationError"),
    (errors.FileMetadataError("no etag"), "the download failed (FileMetadataError"),
    (httpx2.ProxyError("proxy"), "the download failed (ProxyError"),
    (httpx2.ReadTimeout("slow"), "the download failed (ReadTimeout"),
    (OSError(28, "No space left on device"), "the download failed (No space left on device)"),
    (PermissionError(13, "Permission denied"), "the download failed (Permission denied)"),
]


@pytest.mark.parametrize("network", ["reachable", "unreachable"])
@pytest.mark.parametrize(("error", "said"), REAL_ERRORS, ids=lambda x: type(x).__name__)
def test_real_errors_of_the_client(error, said, network, request, monkeypatch):
    request.getfixturevalue(network)

    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    message = refused(f"{ID}@main")
    assert message.startswith(f"{ID}@main: ")
    assert said in message


@pytest.mark.parametrize("status", [401, 404, 500])
def test_hub_that_answers_with_an_error_is_asked_for_details(status, monkeypatch):
    def answer(*_args, **_kwargs):
        raise http_error(errors.HfHubHTTPError, status)

    def download(_repository, *, local_files_only, **_options):
        assert not local_files_only
        raise http_error(errors.GatedRepoError, 403)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", answer)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert "access is restricted" in refused()


@pytest.mark.parametrize("network", ["reachable", "unreachable"])
def test_only_what_is_needed_is_fetched(network, request, monkeypatch, tmp_path):
    request.getfixturevalue(network)
    asked = {}

    def download(repository, **options):
        asked.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.download(f"{ID}@refs/pr/1") == tmp_path
    assert (asked["repository"], asked["revision"]) == (ID, "refs/pr/1")
    assert asked["local_files_only"] is (network == "unreachable")
    repository = [
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "vocab.json",
        "merges.txt",
        "generation_config.json",
        "consolidated.safetensors",
        "original/model.safetensors",
        "onnx/model.onnx",
        "pytorch_model.bin",
        "model.gguf",
        "README.md",
        "modeling_custom.py",
    ]
    wanted = huggingface_hub.utils.filter_repo_objects(
        repository,
        allow_patterns=asked["allow_patterns"],
        ignore_patterns=asked["ignore_patterns"],
    )
    assert list(wanted) == repository[:9]


COMMIT = "a" * 40


def cached(cache: Path, *names: str) -> Path:
    """A snapshot in the local cache."""
    repository = cache / f"models--{ID.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for name in names:
        (snapshot / name).write_text("{}")
    return snapshot


@pytest.mark.usefixtures("unreachable")
def test_cached_snapshot_is_used_without_network(empty_cache):
    snapshot = cached(empty_cache, "config.json")
    assert hub.download(ID) == snapshot
    assert hub.download(f"{ID}@{COMMIT}") == snapshot


@pytest.mark.usefixtures("unreachable")
def test_cached_adapter_is_used_without_network(empty_cache):
    snapshot = cached(empty_cache, "adapter_config.json", "adapter_model.safetensors")
    assert hub.download_adapter(ID) == snapshot
    assert hub.download_adapter(f"{ID}@{COMMIT}") == snapshot


@pytest.mark.usefixtures("unreachable")
@pytest.mark.parametrize("there", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_repository_without_an_adapter_is_refused(empty_cache, there):
    cached(empty_cache, "config.json", there)
    with pytest.raises(FormatError, match=f"^{ID}: has no adapter_.* expected a PEFT adapter"):
        hub.download_adapter(ID)


@pytest.mark.usefixtures("reachable")
def test_only_an_adapters_files_are_fetched(monkeypatch, tmp_path):
    asked = {}

    def download(repository, **options):
        asked.update(options, repository=repository)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (tmp_path / name).touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.download_adapter(f"{ID}@v2") == tmp_path
    assert (asked["repository"], asked["revision"]) == (ID, "v2")
    files = [
        "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "README.md",
        "tokenizer.json", "model.safetensors", "checkpoint-9/adapter_model.safetensors",
    ]  # fmt: skip
    wanted = huggingface_hub.utils.filter_repo_objects(
        files, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(wanted) == files[:2]


def test_without_the_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match="pip install huggingface-hub"):
        hub.download(ID)
