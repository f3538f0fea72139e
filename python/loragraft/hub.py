"""Models and adapters on the Hugging Face Hub: an id in, a local directory out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loragraft.errors import FormatError, MissingDependencyError
from loragraft.wording import quoted, reason

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_PART: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REFERENCE: Final = re.compile(
    rf"(?P<repository>{_PART}/{_PART})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{{0,254}}))?"
)
_WANTED: Final = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "tokenizer*",
    "vocab.json",
    "merges.txt",
    # Small files that a merged model takes along.
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)
#: All that there is to an adapter, and all of which must be there.
_OF_ADAPTER: Final = ("adapter_config.json", "adapter_model.safetensors")
#: Copies of the weights in other layouts, which some repositories hold besides the model.
_UNWANTED: Final = ("*/*", "consolidated*")
_ANSWER_SECONDS: Final = 4.0


def download(reference: str) -> Path:
    """Fetch the weights, config and tokenizer of a model, or find them in the local cache.

    Args:
        reference: Hub id, ``owner/name`` or ``owner/name@revision``.

    Returns:
        The directory of the snapshot, with the repository's top-level files.

    Raises:
        FormatError: The id is malformed, or there is no such model, no network, or no access.
        MissingDependencyError: huggingface_hub is not installed.
    """
    return _fetched(reference, _WANTED, "a directory, a .safetensors file")


def download_adapter(reference: str) -> Path:
    """Fetch an adapter of PEFT, or find it in the local cache.

    Args:
        reference: As `download` takes it.

    Returns:
        The directory of the snapshot, with the adapter's two files.

    Raises:
        FormatError: As `download`, or the repository holds no such adapter.
        MissingDependencyError: huggingface_hub is not installed.
    """
    found = _fetched(reference, _OF_ADAPTER, "the directory of a PEFT adapter")
    missing = next((name for name in _OF_ADAPTER if not (found / name).is_file()), None)
    if missing is not None:
        raise FormatError(
            f"{reference}: has no {missing} at its top, on the Hub or in the local cache: expected"
            " a PEFT adapter whose weights are safetensors"
        )
    return found


def _fetched(reference: str, wanted: Sequence[str], expected: str) -> Path:
    """Return the directory of a repository's files of some names.

    Args:
        reference: Hub id.
        wanted: Patterns of these names.
        expected: What could have been given but an id, in words.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None or ".." in reference or "--" in match["repository"]:
        raise FormatError(
            f"{quoted(reference)}: no such file or directory, and no Hub id either: expected"
            f" {expected}, or owner/name[@revision]"
        )
    try:
        import huggingface_hub.errors  # noqa: PLC0415 -- takes longer to import than all of numpy
    except ImportError as error:
        raise MissingDependencyError(
            f"{reference}: is no path here, and Hub ids need the package huggingface-hub:"
            " pip install huggingface-hub"
        ) from error
    repository, revision = match["repository"], match["revision"]
    unreachable = _why_unreachable(huggingface_hub, repository, revision)
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(wanted),
                ignore_patterns=list(_UNWANTED),
                local_files_only=unreachable is not None,
            )
        )
    except Exception as error:
        # The client's network errors have no common base, and each of its releases its own ones.
        raise _explained(reference, error, unreachable) from error


def _why_unreachable(client: ModuleType, repository: str, revision: str | None) -> str | None:
    """Return why the Hub does not answer, or None when it does.

    snapshot_download asks the same question without any time limit, which takes minutes where
    packets are dropped.
    """
    try:
        client.HfApi().model_info(repository, revision=revision, timeout=_ANSWER_SECONDS)
    except client.errors.HfHubHTTPError:
        return None  # It answered; snapshot_download says what, or finds a copy in the cache.
    except Exception as error:
        return reason(error)
    return None


def _explained(reference: str, error: Exception, unreachable: str | None) -> FormatError:
    """Return the one line that tells the user what to do about a failed download."""
    from huggingface_hub import errors  # noqa: PLC0415 -- as above

    repository = reference.partition("@")[0]
    # In this order: a gated repository is also one that is not found.
    if isinstance(error, errors.GatedRepoError):
        what = (
            f"access is restricted: accept its terms on https://huggingface.co/{repository} and"
            " log in with `hf auth login`"
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        what = "the Hub has the model but not this revision: check what follows the @"
    elif isinstance(error, errors.RepositoryNotFoundError):
        what = "the Hub has no such model, or it is private: check the name, or `hf auth login`"
    elif isinstance(error, errors.LocalEntryNotFoundError):
        cause = unreachable or reason(error.__cause__ or error)
        what = (
            f"not in the local cache, and the Hub cannot be reached ({cause}): connect, fetch it"
            f" elsewhere with `hf download {repository}`, or give a local directory"
        )
    else:
        what = f"the download failed ({reason(error)}): try again, or give a local directory"
    return FormatError(f"{reference}: no path here, and as a Hub id: {what}")
