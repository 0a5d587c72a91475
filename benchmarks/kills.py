"""Stands for `python -m benchmarks.survival.kills`, at the path by which other tools call it."""

import pathlib
import runpy
import sys

if __name__ == "__main__":
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    runpy.run_module("benchmarks.survival.kills", run_name="__main__", alter_sys=True)
