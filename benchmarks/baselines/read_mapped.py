"""Read files through memory maps with a few threads, doing nothing but adding up the words."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_WORDS = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    blocks = []
    for file in arguments.files:
        words = np.memmap(file, np.uint8, "r")
        words = words[: len(words) // 8 * 8].view(np.uint64)
        blocks += [words[start : start + _WORDS] for start in range(0, len(words), _WORDS)]
    with ThreadPoolExecutor(arguments.threads) as pool:
        sums = pool.map(np.add.reduce, blocks)
    print(sum(map(int, sums)) % 2**64)


if __name__ == "__main__":
    main()
