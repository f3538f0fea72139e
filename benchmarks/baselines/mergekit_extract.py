"""mergekit-extract-lora behind the command line that all contenders have in common.

It is run by the Python of mergekit's own environment. Embeddings, head and norms are left out:
by default mergekit would also store them whole, which no other contender does.
"""

from __future__ import annotations

import argparse

from mergekit.scripts.extract_lora import main as mergekit

_NOT_LINEAR = "embed_tokens|lm_head|norm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base")
    parser.add_argument("tuned")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--rank", default="16")
    parser.add_argument("--threads", default="2")
    arguments = parser.parse_args()
    command = ["--model", arguments.tuned, "--base-model", arguments.base]
    command += ["--out-path", arguments.output, "--max-rank", arguments.rank]
    command += ["--num-threads", arguments.threads, "--quiet", "--exclude-regex", _NOT_LINEAR]
    mergekit(command)


if __name__ == "__main__":
    main()
