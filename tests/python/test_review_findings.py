"""Faults found by reading the program with fresh eyes, each kept as a test."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

import lora_files as files
import native_tasks as nt
from loragraft import linalg
from loragraft.adapter.peft import read_adapter
from loragraft.destination import Destination, check_destination
from loragraft.errors import FormatError, NothingToAdaptError, UsageError
from loragraft.extraction import extract
from loragraft.wording import percent

if TYPE_CHECKING:
    from pathlib import Path

LIMITED = """
import resource, sys
sys.path[:0] = sys.argv[1:]
import numpy as np
from loragraft import linalg
# BLAS takes its buffers at its first use; only threads are to be short afterwards.
linalg.truncated_svd(np.eye(200, dtype=np.float32), 4, threads=1)
held = resource.getrlimit(resource.RLIMIT_AS)[1]
used = int(open("/proc/self/statm").read().split()[0]) * 4096
# Room for a few thread stacks, not for a thousand.
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000, held))
linalg.truncated_svd(np.eye(200, dtype=np.float32), 4, threads=1000)
print("done")
"""


@pytest.mark.parametrize("scaling", [1e-300, 1e-44, 1e300])
def test_a_scaling_that_float_cannot_carry_is_refused(tmp_path: Path, scaling: float) -> None:
    """It used to write factors of Inf or zero and to call the result perfect."""
    paths = nt.write_pair(tmp_path, *nt.pair((90, 60)))
    with pytest.raises(UsageError, match="leave the range of float32"):
        nt.run([nt.task(*paths, "w", 4, scaling=scaling)])


@pytest.mark.parametrize(("shape", "rank"), [((450, 400), 376), ((306, 256), 230)])
def test_ranks_near_the_smaller_side_keep_the_promise(shape: tuple[int, int], rank: int) -> None:
    """Iteration gave up on them unsettled, at 1.004 times the optimum."""
    rng = np.random.default_rng(3)
    left, right = (np.linalg.qr(rng.standard_normal((n, shape[1])))[0] for n in shape)
    matrix = ((left * np.arange(1, shape[1] + 1) ** -0.5) @ right.T).astype(np.float32)
    svd = linalg.truncated_svd(matrix, rank)
    approximation = (svd.U * svd.s).astype(np.float64) @ svd.Vt
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    optimum = float(np.sqrt((values[rank:] ** 2).sum()))
    # 45 u ||A||: the rounding of the decomposition, derived in test_truncated_svd.
    rounding = 45 * 2.0**-24 * float(np.linalg.norm(values))
    assert np.linalg.norm(matrix - approximation) <= 1.001 * optimum + rounding


def test_threads_that_cannot_be_started_are_done_without() -> None:
    """The pool used to wait for ever for threads that nobody had told to stop."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *sys.path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


def test_an_output_that_is_a_loop_of_links(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(FormatError, match="cannot be used"):
        check_destination(loop, [tmp_path / "base"], force=False)


def test_two_runs_into_one_directory(tmp_path: Path) -> None:
    """Both used to end well, one of them deleting or mixing what the other had written."""
    out = tmp_path / "out"
    with (
        Destination(out),
        pytest.raises(UsageError, match="another run is writing there"),
        Destination(out),
    ):
        pass
    with Destination(out, force=False) as destination:
        destination.file("adapter_config.json").write_text("{}")
    with (
        pytest.raises(UsageError, match="exists and is not empty"),
        Destination(out, force=False),
    ):
        pass
    assert (out / "adapter_config.json").read_text() == "{}"


def test_unreadable_tokenizers_are_told_and_lose_nothing(tmp_path: Path) -> None:
    """They used to be read after the old adapter had been removed."""
    weights = files.random_weights(dtype="F32")
    base = files.write_checkpoint(tmp_path / "base", weights)
    changed = dict(weights)
    name = f"{files.Q0}.weight"
    changed[name] = weights[name] + 1.0
    tuned = files.write_checkpoint(tmp_path / "tuned", changed)
    (tuned / "tokenizer.json").mkdir()
    result = extract(base, tuned, tmp_path / "out", rank=2)
    assert any("tokenizers cannot be compared" in text for text in result.report.summary.warnings)


def test_only_other_tensors_changed(tmp_path: Path) -> None:
    weights = files.random_weights(dtype="F32")
    changed = dict(weights)
    name = next(name for name in weights if "norm" in name)
    changed[name] = weights[name] + 1.0
    sides = [
        files.write_checkpoint(tmp_path / "base", weights),
        files.write_checkpoint(tmp_path / "tuned", changed),
    ]
    with pytest.raises(NothingToAdaptError, match=f"1 other tensor did change, such as {name}"):
        extract(*sides, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_alpha_of_four_hundred_digits(tmp_path: Path) -> None:
    toy = np.ones((4, 2), np.float32), np.ones((2, 4), np.float32)
    adapter = files.write_adapter(tmp_path / "adapter", {files.Q0: toy})
    config = adapter / "adapter_config.json"
    text = config.read_text().replace('"lora_alpha": ', '"lora_alpha": 1' + 400 * "0" + ', "was": ')
    config.write_text(text)
    with pytest.raises(FormatError, match="expected a finite number"):
        read_adapter(adapter)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_full_standard_output(tmp_path: Path, options: list[str]) -> None:
    """With --json it used to end in a traceback."""
    base = files.write_checkpoint(tmp_path / "base", files.random_weights(dtype="F32"))
    with open("/dev/full", "w") as full:  # noqa: PTH123 -- a device
        done = subprocess.run(
            [sys.executable, "-m", "loragraft", "inspect", base, *options],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == FormatError.exit_code
    (line,) = done.stderr.splitlines()
    assert line.startswith("loragraft: error: standard output cannot be written: No space left")


def test_a_share_is_never_rounded_up_to_all() -> None:
    assert percent(1.0) == "100.00%"
    assert percent(0.8587) == "85.87%"
    assert percent(0.99999) == "99.9990%"
    assert percent(1.0 - 1e-7) == "99.999990%"
    assert percent(1.0 - 1e-12) == "almost 100%"
