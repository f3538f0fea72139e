"""Writes calibration prompts: training questions, no answers.

python prompts.py DATA OUT.jsonl [--count 256]
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from tasks import questions


def main() -> None:
    """Draw questions and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=256)
    arguments = parser.parse_args()
    asked = questions(arguments.data, "train")
    random.Random(1).shuffle(asked)
    lines = [json.dumps({"prompt": one.prompt}) + "\n" for one in asked[: arguments.count]]
    arguments.out.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
