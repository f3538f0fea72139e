"""A model that is evaluated, with its adapters beside it, of which one is switched on at a time.

Beside `scoring` and `machine` the only file here that imports torch and peft, inside of functions.
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loragraft.calibration.language_model import open_model
from loragraft.errors import FormatError, MismatchError
from loragraft.evaluation.batches import MOST_ON_CPU, MOST_ON_GPU, is_out_of_memory, tokens_at_once
from loragraft.evaluation.harness import Cutter
from loragraft.evaluation.scoring import Scorer
from loragraft.memory import available_memory
from loragraft.wording import counted, quoted, reason, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from loragraft.calibration.language_model import LanguageModel
    from loragraft.evaluation.candidate import Candidate
    from loragraft.evaluation.machine import Numbers


@dataclass(frozen=True, slots=True)
class Subject:
    """A model in memory.

    Attributes:
        language_model: The model, its tokenizer and threads.
        cutter: Cuts prompts into tokens for it.
        scorer: Computes log-likelihoods with it.
        names: What PEFT calls the adapters, by the name of the candidate.
    """

    language_model: LanguageModel
    cutter: Cutter
    scorer: Scorer
    names: Mapping[str, str]

    @contextlib.contextmanager
    def being(self, candidate: Candidate) -> Iterator[Scorer]:
        """Run the model as a candidate, with its adapter or none, while the context lasts."""
        model = self.language_model.model
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.language_model.computing())
            if candidate.name in self.names:
                model.set_adapter(self.names[candidate.name])
            elif self.names:
                stack.enter_context(model.disable_adapter())
            yield self.scorer

    def tokens_at_once(self) -> int:
        """Return how many tokens a batch may have, for all that the memory holds now."""
        import torch

        inner = self.language_model.inner
        settings = inner.config.get_text_config()
        on_gpu = inner.device.type == "cuda"
        free = torch.cuda.mem_get_info(inner.device)[0] if on_gpu else available_memory()
        most = MOST_ON_GPU if on_gpu else MOST_ON_CPU
        return tokens_at_once(free, settings.vocab_size, settings.hidden_size, most)


def open_subject(
    directory: Path, adapters: Sequence[Candidate], numbers: Numbers, threads: int | None
) -> Subject:
    """Load a model and put adapters beside it, none of them switched on.

    Raises:
        MissingDependencyError: torch, transformers or peft is not installed.
        FormatError: A file cannot be loaded, or the memory will not do.
        MismatchError: An adapter does not fit the model.
    """
    try:
        found = open_model(directory, None, threads, dtype=numbers.dtype)
        found.model.to(numbers.device)
        cutter = Cutter(found.tokenizer, found.model.config)
        model, names = _adapted(found.model, adapters, shown(directory))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise FormatError(
            f"{shown(directory)}: does not fit into the memory ({reason(error)}): use --dtype bf16,"
            " a GPU with more memory, or a machine where less else runs"
        ) from error
    inner = found.model
    subject = type(found)(model.eval(), found.tokenizer, threads)
    return Subject(subject, cutter, Scorer(model, inner), names)


def _adapted(model: Any, adapters: Sequence[Candidate], base: str) -> tuple[Any, dict[str, str]]:
    """Return the model with all adapters beside it, and what PEFT calls them."""
    names: dict[str, str] = {}
    for number, adapter in enumerate(adapters):
        # PEFT takes dots in a name for a path.
        name = f"candidate_{number}"
        with warnings.catch_warnings():
            # PEFT warns where we refuse.
            warnings.simplefilter("ignore")
            model = _with_adapter(model, adapter, name, base)
        names[adapter.name] = name
    return model, names


def _config(adapter: Candidate) -> Any:
    """Return what PEFT takes from adapter_config.json; refuse what it should not act on."""
    import peft

    where = shown(adapter.given)
    try:
        config = peft.PeftConfig.from_pretrained(str(adapter.path))
    except Exception as error:
        raise FormatError(f"{where}: peft cannot read it ({reason(error)})") from error
    if config.is_prompt_learning:
        raise MismatchError(
            f"{where}: is {quoted(str(config.peft_type.value))}, which puts tokens before the text:"
            " only adapters of weights are evaluated"
        )
    if getattr(config, "megatron_config", None):
        raise FormatError(
            f"{where}: adapter_config.json has a megatron_config, for which PEFT imports a module"
            " that the adapter names: expected an adapter without it"
        )
    return config


def _with_adapter(model: Any, adapter: Candidate, name: str, base: str) -> Any:
    import peft

    where = f"{shown(adapter.given)}: does not fit {base}"
    config = _config(adapter)
    config.inference_mode = True
    try:
        if isinstance(model, peft.PeftModel):
            model.add_adapter(name, config)
        else:
            model = peft.get_peft_model(model, config, adapter_name=name)
        found = model.load_adapter(str(adapter.path), adapter_name=name, is_trainable=False)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        # PEFT tells by plain ValueError and RuntimeError what does not match.
        raise MismatchError(f"{where} ({reason(error)}): give the model it was made for") from error
    for keys, what in (
        (found.unexpected_keys, "has {} that the model has no place for"),
        (found.missing_keys, "lacks {} that its adapter_config.json asks for"),
    ):
        if keys:
            told = what.format(counted(len(keys), "tensor"))
            raise MismatchError(
                f"{where}: it {told}, the first {quoted(keys[0])}: give the model it was made for"
            )
    return model
