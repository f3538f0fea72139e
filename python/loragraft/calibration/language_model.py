"""A language model of transformers, run on texts and watched while it runs.

The only file that imports torch, transformers and peft; they come with the extra ``eval``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.calibration.watching import BATCH, SeenAllError, View, batches
from loragraft.errors import FormatError, MismatchError, MissingDependencyError
from loragraft.wording import listed, quoted, reason, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from loragraft.calibration.watching import Watcher
    from loragraft.checkpoint import Checkpoint

    Array = NDArray[np.float32]

_NEEDED: Final = ("torch", "transformers", "peft")
#: What the norm before the head is called.
_LAST_NORMS: Final = ("norm", "final_layernorm", "final_norm")
#: Settings of models that multiply or divide logits.
_LOGIT_SCALES: Final = ("logit_scale", "logits_scaling", "lm_head_multiplier")
#: Seeds that torch takes.
_SEEDS: Final = 2**63
#: The file that transformers loads where there is no index.
_SINGLE: Final = "model.safetensors"


class Tokens(NamedTuple):
    """A text as a tokenizer cuts it.

    Attributes:
        ids: Numbers of the tokens.
        ends: Characters of the text before the end of each token; 0 for tokens that are no part
            of the text.
    """

    ids: tuple[int, ...]
    ends: tuple[int, ...]


class Place(NamedTuple):
    """A token of a text.

    Attributes:
        text: Number of the text.
        token: Number of the token within it.
    """

    text: int
    token: int


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A causal language model, on the CPU and in float32 unless it was opened otherwise.

    Attributes:
        model: Of transformers, with an adapter of PEFT or without.
        tokenizer: Its fast tokenizer.
        threads: Threads to compute with; None for as many as torch takes.
    """

    model: Any
    tokenizer: Any
    threads: int | None = None

    @property
    def end(self) -> int:
        """Number of the token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def inner(self) -> Any:
        """The model without PEFT's wrapper; the adapter's layers stay in it."""
        wrapped = hasattr(self.model, "get_base_model")
        return self.model.get_base_model() if wrapped else self.model

    @property
    def longest(self) -> int:
        """Tokens of a text that are read: no more than the model has positions for."""
        settings = self.inner.config.get_text_config()
        return min(BATCH, getattr(settings, "max_position_embeddings", None) or BATCH)

    def tokens(self, text: str) -> Tokens:
        """Cut a text into tokens, special ones before it included; what is too long is cut off."""
        found = self.tokenizer(text, return_offsets_mapping=True, verbose=False)
        ends = (end for _, end in found["offset_mapping"])
        most = self.longest
        return Tokens(tuple(found["input_ids"])[:most], tuple(ends)[:most])

    @contextlib.contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Run the model alone for as long as the context lasts."""
        with self.model.disable_adapter():
            yield

    def complete(
        self, prompts: Sequence[str], most: int, *, seed: int | None = None
    ) -> list[str | None]:
        """Let the model answer.

        Args:
            prompts: What to answer.
            most: Tokens of an answer at most.
            seed: Draw the tokens, each with its probability; None takes the likeliest.

        Returns:
            The answers; None where no end came in time, or nothing before it.
        """
        answers: list[str | None] = [None] * len(prompts)
        ids = [self.tokens(prompt).ids for prompt in prompts]
        for count, batch in enumerate(batches([len(one) + most for one in ids])):
            drawn = None if seed is None else (seed + count) % _SEEDS
            lines = self._generated([ids[number] for number in batch], most, drawn)
            for number, line in zip(batch, lines, strict=True):
                if self.end in line:
                    answer = self.tokenizer.decode(line[: line.index(self.end)])
                    answers[number] = answer or None
        return answers

    def _generated(
        self, lines: list[tuple[int, ...]], most: int, seed: int | None
    ) -> list[list[int]]:
        """Return the new tokens of each line; padded on the left, which generation needs."""
        import torch

        ids, mask = self._padded(lines, on_left=True)
        # What a model's own settings would do to its probabilities is undone.
        drawn = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        with self.computing(), torch.random.fork_rng(devices=()):
            if seed is not None:
                torch.manual_seed(seed)
            made = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=most,
                pad_token_id=self.end,
                eos_token_id=self.end,
                **({"do_sample": False} if seed is None else drawn),
            )
        return [list(map(int, row[ids.shape[1] :])) for row in made]

    def run(
        self, texts: Sequence[Tokens], places: Sequence[Place], watchers: Mapping[str, Watcher]
    ) -> None:
        """Run the model up to its last hidden state; tell what modules read and write at places.

        A batch ends once every module has been seen. A watcher hears nothing of a module that is
        not run by then, such as the head, or that does not see every token, such as an expert.

        Args:
            texts: The texts.
            places: Where to look.
            watchers: By name of the module in `inner`; called a batch at a time, with the numbers
                of the places.

        Raises:
            MismatchError: No such module.
        """
        by_text: dict[int, list[int]] = {}
        for number, place in enumerate(places):
            by_text.setdefault(place.text, []).append(number)
        view = View()
        handles = [
            self.module(name).register_forward_hook(view.hook(name, watcher))
            for name, watcher in watchers.items()
        ]
        wanted = sorted(by_text)
        try:
            for batch in batches([len(texts[text].ids) for text in wanted]):
                lines = [wanted[one] for one in batch]
                seen = [(row, n) for row, text in enumerate(lines) for n in by_text[text]]
                ids, mask = self._padded([texts[text].ids for text in lines])
                view.look(tuple(ids.shape), [(row, places[n].token) for row, n in seen], seen)
                with self.computing(), contextlib.suppress(SeenAllError):
                    self.inner.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()

    def module(self, name: str) -> Any:
        """Return a module by its name.

        Raises:
            MismatchError: There is none.
        """
        try:
            return self.inner.get_submodule(name)
        except AttributeError:
            raise MismatchError(
                f"transformers builds {type(self.inner).__name__} without a module {name}"
            ) from None

    @property
    def last_norm(self) -> str:
        """Name of the norm between the last block and the head.

        Raises:
            MismatchError: The model has none that is known.
        """
        base = self.inner.base_model
        owned = [name for name, _ in base.named_children() if name in _LAST_NORMS]
        if len(owned) != 1:
            raise MismatchError(
                f"{type(self.inner).__name__} has no norm before its head that is known"
                f" ({', '.join(_LAST_NORMS)}): choose another --method"
            )
        prefix = next((f"{name}." for name, one in self.inner.named_modules() if one is base), "")
        return f"{prefix.removeprefix('.')}{owned[0]}"

    def epsilon(self, name: str) -> float:
        """Return what a norm adds to the mean square."""
        module = self.module(name)
        found = getattr(module, "eps", getattr(module, "variance_epsilon", 0.0))
        return float(found or 0.0)

    @property
    def cap(self) -> float | None:
        """Logits l become cap · tanh(l / cap), as in Gemma 2; None where they do not.

        Raises:
            MismatchError: Logits are scaled otherwise.
        """
        settings = self.inner.config.get_text_config()
        for key in _LOGIT_SCALES:
            if getattr(settings, key, None) not in {None, 1}:
                raise MismatchError(
                    f"{type(self.inner).__name__} scales its logits ({key}), which is not known"
                    " here: choose another --method"
                )
        found = getattr(settings, "final_logit_softcapping", None)
        return None if found is None else float(found)

    @property
    def unembedding(self) -> Array:
        """The rows of the head, (tokens, d)."""
        rows: Array = self.inner.get_output_embeddings().weight.detach().numpy()
        return rows

    def log_probabilities(self, states: Array) -> Array:
        """Return what the head, with the adapter's part of it, makes of last hidden states.

        Args:
            states: After the last norm, (places, d).

        Returns:
            (places, tokens), in nats.
        """
        import torch

        cap = self.cap
        with self.computing():
            logits = self.inner.get_output_embeddings()(torch.from_numpy(states))
            if cap is not None:
                logits = cap * torch.tanh(logits / cap)
            found: Array = torch.log_softmax(logits, -1).numpy()
        return found

    @contextlib.contextmanager
    def changed(self, name: str, update: Array) -> Iterator[None]:
        """Run the model with an update added to a weight for as long as the context lasts.

        Args:
            name: Of the module.
            update: ΔW, (out, in).
        """
        import torch

        module = self.module(name)
        weight = module.weight.data
        delta = torch.from_numpy(update)
        module.weight.data = weight + (delta if weight.shape == delta.shape else delta.T)
        try:
            yield
        finally:
            module.weight.data = weight

    def _padded(self, lines: list[tuple[int, ...]], *, on_left: bool = False) -> tuple[Any, Any]:
        """Return the numbers of tokens and the attention mask of a batch."""
        import torch

        width = max(map(len, lines))
        ids = torch.full((len(lines), width), self.end)
        mask = torch.zeros((len(lines), width), dtype=torch.long)
        for row, line in enumerate(lines):
            where = slice(width - len(line), None) if on_left else slice(len(line))
            ids[row, where] = torch.tensor(line)
            mask[row, where] = 1
        return ids, mask

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Compute without gradients, with the threads asked for."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            with torch.no_grad():
                yield
        finally:
            torch.set_num_threads(before)


def require_runtime() -> None:
    """Refuse to go on without what runs a model.

    Raises:
        MissingDependencyError: torch, transformers or peft is not installed.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"running a model needs {listed(missing)}: pip install 'loragraft[eval]'"
        )


def require_whole(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint of which transformers would load other files than those it consists of.

    Raises:
        FormatError: It is one.
    """
    if checkpoint.index is None and [path.name for path in checkpoint.shards] != [_SINGLE]:
        raise FormatError(
            f"{shown(checkpoint.reference)}: is neither {_SINGLE} nor has an index of its shards,"
            " which transformers needs to load it, and it is to be run"
        )


def open_model(
    directory: Path,
    adapter: Path | None = None,
    threads: int | None = None,
    *,
    dtype: str = "float32",
) -> LanguageModel:
    """Load a model and its tokenizer from local files, and an adapter onto it.

    Args:
        directory: Of the model.
        adapter: Directory of an adapter of PEFT, or None.
        threads: Threads to compute with; None for as many as torch takes.
        dtype: What torch calls the numbers that it computes with.

    Raises:
        MissingDependencyError: torch, transformers or peft is not installed.
        FormatError: transformers cannot load the model or its tokenizer.
    """
    require_runtime()
    import transformers

    where = os.fspath(directory)
    with _quiet(transformers.utils.logging):
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                where, local_files_only=True, trust_remote_code=False
            )
            model = _weights(transformers, where, dtype)
        except FormatError:
            raise
        except Exception as error:
            # What transformers raises has no common base, and each release has its own.
            raise FormatError(
                f"{shown(where)}: transformers cannot load it ({reason(error)}): to be run it needs"
                " config.json and the tokenizer's files beside the weights"
            ) from error
        if not tokenizer.is_fast or tokenizer.eos_token_id is None:
            raise FormatError(
                f"{shown(where)}: its tokenizer gives no character offsets or has no end token:"
                " put its tokenizer.json and tokenizer_config.json there"
            )
        if adapter is not None:
            import peft

            model = peft.PeftModel.from_pretrained(model, os.fspath(adapter))
    return LanguageModel(model.eval(), tokenizer, threads)


def _weights(transformers: Any, where: str, dtype: str) -> Any:
    """Return the model, all of whose weights must come from its files.

    Raises:
        FormatError: Some would be random.
    """
    import torch

    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        where,
        dtype=getattr(torch, dtype),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise FormatError(
            f"{shown(where)}: has no tensor {quoted(missing[0])}, with which transformers builds"
            f" {type(model).__name__} ({len(missing)} missing): fetch the checkpoint again"
        )
    return model


@contextlib.contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Keep transformers from writing to the terminal, and leave it as it was."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
