"""Stands for `python -m benchmarks.speed.sampling`, at the path by which other tools call it."""

import pathlib
import runpy
import sys

if __name__ == "__main__":
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    runpy.run_module("benchmarks.speed.sampling", run_name="__main__", alter_sys=True)
