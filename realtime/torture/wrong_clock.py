"""Runs a script or a module with a clock that is wrong by so many seconds.

python -m realtime.torture.wrong_clock SECONDS SCRIPT.py|MODULE ARGUMENT...
"""

from __future__ import annotations

import runpy
import sys
import time


def main() -> None:
    """Change the clock before anything else is imported, and run."""
    _, seconds, program, *arguments = sys.argv
    ahead, clock = float(seconds), time.time
    time.time = lambda: clock() + ahead
    sys.argv = [program, *arguments]
    if program.endswith(".py"):
        sys.path.insert(0, "")
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
