"""The command line: parsing, printing and exit codes; the work is the library's."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from typing import Final

_STOPPED: Final = 7


def main() -> None:
    """Run the command of ``sys.argv`` and end the process with its exit code."""
    # NumPy's BLAS threads spin while they wait and fight over busy machines: verification took ten
    # times longer with them. Whoever sets the variable knows better.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if not sys.warnoptions:
        # What users should know is told by the library; the rest is for developers.
        warnings.simplefilter("ignore")
    # To search what has just been loaded, and stays, for cycles is time lost.
    gc.set_threshold(100_000)
    try:
        from loragraft.cli.application import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        print("loragraft: error: stopped before it began", file=sys.stderr)
        code = _STOPPED
    if code == _STOPPED:
        # All is cleaned up. Threads of a download would be waited for, maybe for minutes.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    # Before it ends the interpreter would search all that it has loaded for cycles.
    gc.freeze()
    sys.exit(code)
