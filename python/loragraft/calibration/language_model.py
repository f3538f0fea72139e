"""A language model of transformers, run on texts and watched while it runs.

The only file that imports torch, transformers and peft; they come with the extra ``eval``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from loragraft.errors import FormatError, MissingDependencyError
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    #: Told which places were seen, and what a module read and wrote there: (n,), (n, in), (n, out).
    Watcher = Callable[[NDArray[np.intp], Array, Array], None]

_NEEDED: Final = ("torch", "transformers", "peft")
#: Tokens in a batch, padding included.
_BATCH: Final = 2048


class Tokens(NamedTuple):
    """A text as a tokenizer cuts it.

    Attributes:
        ids: Numbers of the tokens.
        ends: Characters of the text before the end of each token; 0 for tokens before the text.
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
    """A causal language model on the CPU, in float32.

    Attributes:
        model: Of transformers, with an adapter of PEFT or without.
        tokenizer: Its fast tokenizer.
    """

    model: Any
    tokenizer: Any

    @property
    def end(self) -> int:
        """Number of the token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def inner(self) -> Any:
        """The model without PEFT's wrapper; the adapter's layers stay in it."""
        wrapped = hasattr(self.model, "get_base_model")
        return self.model.get_base_model() if wrapped else self.model

    def tokens(self, text: str) -> Tokens:
        """Cut a text into tokens, special ones before it included."""
        found = self.tokenizer(text, return_offsets_mapping=True)
        return Tokens(tuple(found["input_ids"]), tuple(end for _, end in found["offset_mapping"]))

    @contextlib.contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Run the model alone for as long as the context lasts."""
        with self.model.disable_adapter():
            yield

    def complete(self, prompts: Sequence[str], most: int) -> list[str | None]:
        """Let the model answer, greedily.

        Args:
            prompts: What to answer.
            most: Tokens of an answer at most.

        Returns:
            The answers; None where no end came in time, or nothing before it.
        """
        answers: list[str | None] = [None] * len(prompts)
        ids = [self.tokens(prompt).ids for prompt in prompts]
        for batch in _batches([len(one) + most for one in ids]):
            for number, line in zip(batch, self._generated([ids[i] for i in batch], most), strict=True):
                if self.end in line:
                    answer = self.tokenizer.decode(line[: line.index(self.end)])
                    answers[number] = answer or None
        return answers

    def _generated(self, lines: list[tuple[int, ...]], most: int) -> list[list[int]]:
        """Return the new tokens of each line; padded on the left, which generation needs."""
        import torch

        width = max(map(len, lines))
        ids = torch.full((len(lines), width), self.end)
        mask = torch.zeros((len(lines), width), dtype=torch.long)
        for row, line in enumerate(lines):
            ids[row, width - len(line) :] = torch.tensor(line)
            mask[row, width - len(line) :] = 1
        with torch.no_grad():
            made = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=most,
                do_sample=False,
                pad_token_id=self.end,
                eos_token_id=self.end,
            )
        return [list(map(int, row[width:])) for row in made]

    def run(
        self, texts: Sequence[Tokens], places: Sequence[Place], watchers: dict[str, Watcher]
    ) -> None:
        """Run the model on texts, and tell what modules read and write at some places.

        Args:
            texts: The texts.
            places: Where to look; ascending by text.
            watchers: By name of the module in `inner`; called a batch at a time, with the numbers
                of the places.

        Raises:
            FormatError: No such module.
        """
        import torch

        by_text: dict[int, list[int]] = {}
        for number, place in enumerate(places):
            by_text.setdefault(place.text, []).append(number)
        now: dict[str, Any] = {}
        handles = [
            self._module(name).register_forward_hook(_hook(watcher, now))
            for name, watcher in watchers.items()
        ]
        wanted = sorted(by_text)
        try:
            with torch.no_grad():
                for batch in _batches([len(texts[text].ids) for text in wanted]):
                    lines = [wanted[one] for one in batch]
                    seen = [(row, n) for row, text in enumerate(lines) for n in by_text[text]]
                    now["rows"] = torch.tensor([row for row, _ in seen])
                    now["tokens"] = torch.tensor([places[n].token for _, n in seen])
                    now["numbers"] = np.array([n for _, n in seen], np.intp)
                    self._forward([texts[text].ids for text in lines])
        finally:
            for handle in handles:
                handle.remove()

    def _forward(self, lines: list[tuple[int, ...]]) -> None:
        """Run a batch up to the last hidden state, padded on the right."""
        import torch

        width = max(map(len, lines))
        ids = torch.full((len(lines), width), self.end)
        mask = torch.zeros((len(lines), width), dtype=torch.long)
        for row, line in enumerate(lines):
            ids[row, : len(line)] = torch.tensor(line)
            mask[row, : len(line)] = 1
        self.inner.base_model(input_ids=ids, attention_mask=mask)

    def _module(self, name: str) -> Any:
        try:
            return self.inner.get_submodule(name)
        except AttributeError:
            raise FormatError(
                f"transformers builds {type(self.inner).__name__} without a module {name}; choose"
                " another --method"
            ) from None


def open_model(
    directory: Path, adapter: Path | None = None, threads: int | None = None
) -> LanguageModel:
    """Load a model and its tokenizer from local files, and an adapter onto it.

    Raises:
        MissingDependencyError: torch, transformers or peft is not installed.
        FormatError: transformers cannot load the model or its tokenizer.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"running a model needs {', '.join(missing)}: pip install 'loragraft[eval]'"
        )
    import torch
    import transformers

    if threads is not None:
        torch.set_num_threads(threads)
    where = os.fspath(directory)
    with _quiet(transformers):
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(where, local_files_only=True)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                where, dtype=torch.float32, local_files_only=True
            )
        except (OSError, ValueError, KeyError) as error:
            first = str(error).strip().splitlines()[0]
            raise FormatError(
                f"{shown(where)}: transformers cannot load it ({first}); this method runs both"
                " models: put config.json and the tokenizer's files beside the weights"
            ) from error
        if not tokenizer.is_fast or tokenizer.eos_token_id is None:
            raise FormatError(
                f"{shown(where)}: its tokenizer gives no character offsets or has no end token;"
                " put its tokenizer.json and tokenizer_config.json there"
            )
        if adapter is not None:
            import peft

            model = peft.PeftModel.from_pretrained(model, os.fspath(adapter))
    return LanguageModel(model.eval(), tokenizer)


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep transformers from drawing bars on the terminal, and let it as it was."""
    logging = transformers.utils.logging
    before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield numbers of texts of like length whose padded size stays within a batch's."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda one: (lengths[one], one)):
        if batch and (len(batch) + 1) * lengths[number] > _BATCH:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _hook(watcher: Watcher, now: dict[str, Any]) -> Callable[[Any, Any, Any], None]:
    def told(module: Any, inputs: Any, output: Any) -> None:
        del module
        at = (now["rows"], now["tokens"])
        watcher(now["numbers"], inputs[0][at].float().numpy(), output[at].float().numpy())

    return told
