"""What ``--exact`` recovers of LoRAs that were merged.

    .venv/bin/python benchmarks/exact.py real BASE ADAPTER [--texts FILE]
    .venv/bin/python benchmarks/exact.py made

`real` merges an adapter into a base checkpoint and takes it out again, plainly and exactly: share
of weights bit for bit, error to the change that was merged, seconds (median of five interleaved
runs), sizes, and with `--texts` (a file of lines) the KL divergence of the merged models per token.
`made` merges LoRAs of known ranks and sizes into a model of two layers with the shapes of
SmolLM2-135M, and tells how often ``--rank auto --exact`` finds the rank.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

import loragraft
from loragraft.adapter.peft import read_adapter
from loragraft.demo.smollm2 import find_gguf
from loragraft.errors import NothingToAdaptError
from markdown import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

RANKS: Final = (4, 8, 16, 32, 64)
#: Root mean square of the change in half cells of a median weight.
SIZES: Final = (0.05, 0.3, 1.0, 4.0, 16.0)
SHAPES: Final = {
    "self_attn.q_proj": (576, 576),
    "self_attn.k_proj": (192, 576),
    "self_attn.v_proj": (192, 576),
    "self_attn.o_proj": (576, 576),
    "mlp.up_proj": (1536, 576),
    "mlp.down_proj": (576, 1536),
}
FORMATS: Final = {"BF16": (ml_dtypes.bfloat16, 7), "F16": (np.float16, 10)}
ROUNDS: Final = 5


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    of_real = commands.add_parser("real")
    of_real.add_argument("base", type=Path)
    of_real.add_argument("adapter", type=Path)
    of_real.add_argument("--texts", type=Path)
    of_real.set_defaults(run=lambda options: real(options.base, options.adapter, options.texts))
    commands.add_parser("made").set_defaults(run=lambda _: made())
    options = parser.parse_args()
    options.run(options)


def real(base: Path, adapter: Path, texts: Path | None) -> None:
    """Measure one adapter, merged in bf16."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    rank = config["r"]
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        tuned = directory / "tuned"
        loragraft.merge(base, adapter, tuned, dtype="bf16")
        ways: dict[str, dict[str, Any]] = {
            "plain": {"rank": rank, "dtype": "fp32"},
            "exact": {"rank": rank, "exact": True},
            "exact, fp16": {"rank": rank, "exact": True, "dtype": "fp16"},
            "exact, rank auto": {"rank": "auto", "exact": True},
        }
        seconds = _seconds(base, tuned, directory, ways)
        truth = _factors(adapter)
        rows = []
        for way in ways:
            out = directory / way
            checked = loragraft.verify(base, tuned, out)
            errors = list(_errors(truth, _factors(out)))
            right = sum(module.rank == rank for module in checked.modules)
            rows.append(
                [
                    way,
                    f"{checked.summary.energy:.2%}",
                    f"{checked.summary.bit_exact or 0:.4%}",
                    f"{statistics.mean(errors):.4f}",
                    f"{max(errors):.3f}",
                    f"{right} of {len(checked.modules)}",
                    f"{statistics.median(seconds[way]):.2f}",
                    f"{(out / 'adapter_model.safetensors').stat().st_size / 1e6:.2f}",
                ]
            )
        head = ["", "energy", "bit for bit", "mean error", "worst", "right rank", "seconds", "MB"]
        print(table(head, rows), flush=True)
        if texts is not None:
            print(
                "\n"
                + table(
                    ["model", "KL(tuned ‖ model), nats per token"],
                    list(_divergences(base, tuned, adapter, directory, texts, list(ways)[:2])),
                )
            )


def _seconds(
    base: Path, tuned: Path, directory: Path, ways: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[float]]:
    """Run every way in turn, and all of that again."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, options in ways.items():
            started = time.perf_counter()
            loragraft.extract(base, tuned, directory / way, force=True, **options)
            seconds[way].append(time.perf_counter() - started)
    return seconds


def _factors(adapter: Path) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Return (B, A) of every module, the scaling multiplied in."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    return {
        module.name: (
            tensors[module.lora_B.name].astype(np.float64) * module.scaling,
            tensors[module.lora_A.name].astype(np.float64),
        )
        for module in read_adapter(adapter).modules
    }


def _errors(
    truth: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
    found: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
) -> Iterator[float]:
    """Yield how far the products are from the true ones, relative to these."""
    for name, (b, a) in truth.items():
        change, other = b @ a, found[name]
        yield float(np.linalg.norm(other[0] @ other[1] - change) / np.linalg.norm(change))


def _divergences(
    base: Path, tuned: Path, adapter: Path, directory: Path, texts: Path, ways: list[str]
) -> Iterator[list[str]]:
    """Yield the divergence of the models that merges give, and of adapters left beside the base."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def load(path: Path, dtype: Any = torch.float32) -> Any:
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()

    lines = texts.read_text(encoding="utf-8").splitlines()
    if (base / "tokenizer.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(base)
    else:  # the demo's base, which has no tokenizer but in the file that it was unpacked from
        gguf = find_gguf()
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    batches = [tokenizer(line, return_tensors="pt").input_ids for line in lines if line.strip()]

    def logs(model: Any) -> list[Any]:
        with torch.inference_mode():
            return [torch.log_softmax(model(ids).logits[0].double(), -1) for ids in batches]

    wanted = logs(load(tuned))

    def divergence(model: Any) -> str:
        sums = [(w.exp() * (w - g)).sum(-1) for w, g in zip(wanted, logs(model), strict=True)]
        return f"{torch.cat(sums).mean().item():.2e}"

    yield ["base", divergence(load(base))]
    for name, place in {**{way: directory / way for way in ways}, "the true one": adapter}.items():
        merged = directory / f"{name} merged"
        loragraft.merge(base, place, merged, dtype="bf16")
        yield [f"{name}, merged in bf16", divergence(load(merged))]
        yield [f"{name}, not merged", divergence(PeftModel.from_pretrained(load(base), place))]


def made() -> None:
    """Print how often the rank of a made merge is found."""
    for code in FORMATS:
        print(
            f"\n{code}: modules of right rank (of those whose rank is not told to be unknowable)\n"
        )
        head = ["size", *(f"rank {rank}" for rank in RANKS)]
        print(
            table(head, [[f"{size:g}", *(_found(code, size, r) for r in RANKS)] for size in SIZES])
        )
        sys.stdout.flush()


def _found(code: str, size: float, rank: int) -> str:
    dtype, bits = FORMATS[code]
    rng = np.random.default_rng([rank, int(100 * size), bits])
    base, tuned = {}, {}
    for layer in range(2):
        for name, shape in SHAPES.items():
            scales = np.exp(0.2 * rng.standard_normal((shape[0], 1)))
            scales = scales * np.exp(0.3 * rng.standard_normal((1, shape[1])))
            weight = (0.05 * rng.standard_normal(shape) * scales).astype(dtype)
            values = weight.astype(np.float64)
            cell = 2.0 ** (np.floor(np.log2(np.median(np.abs(values)))) - bits - 1)
            left, right = (
                rng.standard_normal((shape[0], rank)),
                rng.standard_normal((rank, shape[1])),
            )
            change = size * cell / np.sqrt(rank) * left @ right
            key = f"model.layers.{layer}.{name}.weight"
            base[key], tuned[key] = weight, (values + change).astype(np.float32).astype(dtype)
    with tempfile.TemporaryDirectory() as place:
        for side, tensors in (("base", base), ("tuned", tuned)):
            Path(place, side).mkdir()
            save_file(tensors, Path(place, side, "model.safetensors"))
            Path(place, side, "config.json").write_text('{"model_type": "llama"}', "utf-8")
        sides = (Path(place, "base"), Path(place, "tuned"))
        try:
            result = loragraft.extract(*sides, rank="auto", exact=True)
        except NothingToAdaptError:
            return "nothing kept"
    modules = result.report.modules
    known = [m for m in modules if m.recovery and m.recovery.get("rank_known")]
    right, sure = (sum(module.rank == rank for module in some) for some in (modules, known))
    return f"{right} of {2 * len(SHAPES)} ({sure} of {len(known)})"


if __name__ == "__main__":
    main()
