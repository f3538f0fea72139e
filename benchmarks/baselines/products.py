"""How fast torch multiplies large matrices: the fastest of a few products, in FLOP/s, as JSON."""

from __future__ import annotations

import argparse
import json
import time

import torch

_REPEATS = 5
#: Side of the square matrices by dtype.
_SIDES = {torch.float32: 4096, torch.bfloat16: 2048}


@torch.inference_mode()
def rate(dtype: torch.dtype, side: int) -> float:
    one, other = (torch.randn(side, side).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        torch.mm(one, other)
        seconds.append(time.perf_counter() - start)
    return 2.0 * side**3 / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    names = {str(dtype).removeprefix("torch."): dtype for dtype in _SIDES}
    print(json.dumps({name: rate(dtype, _SIDES[dtype]) for name, dtype in names.items()}))


if __name__ == "__main__":
    main()
