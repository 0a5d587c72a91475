"""Rewards from outside, well-behaved and not; tests name them as FILE.py:NAME."""

import collections
import os
import signal
import sys
import time

import numpy as np

from bstar_jax import Grade


def after_marker(query, response, finish_reason):
    return response.rpartition("#")[2].strip() == query.reference


def yes(query, response, finish_reason):
    return True


def no(query, response, finish_reason):
    return False


def counted(query, response, finish_reason):
    """Leaves a mark for every call in the file that CALLS names."""
    with open(os.environ["CALLS"], "a") as file:
        file.write(".")
    return after_marker(query, response, finish_reason)


def share(query, response, finish_reason):
    """Partial credit: half for a right last digit."""
    answer = response.rpartition("#")[2].strip()
    if answer == query.reference:
        return 1.0
    return 0.6 if answer[-1:] == query.reference[-1:] and answer.isdigit() else 0.25


def hard_cases(query, response, finish_reason):
    word = response.split()[0] if response.split() else ""
    values = {"none": None, "two": 2.0, "nan": float("nan"), "text": "yes", "dict": {}}
    numbers = {"numpy": np.float32(1), "array": np.array(0.5), "int": 1, "bool": np.True_}
    if word in values or word in numbers:
        return {**values, **numbers}[word]
    if word == "grade":
        return Grade(0.5, answer="half", message="half right", step_rewards=[0.5, -1.0])
    if word == "unreadable":
        return Grade(0, answer=None, message="no answer in it")
    if word == "raise":
        raise KeyError(response)
    if word == "leave":
        sys.exit(3)
    if word == "sleep":
        time.sleep(1000)
    if word == "allocate":
        return len(bytearray(100 << 30)) > 0
    if word == "print":
        print("x" * (1 << 20) * 64)
    if word == "fork":
        os.fork()
    if word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return True


async def awaited(query, response, finish_reason):
    return after_marker(query, response, finish_reason)


def batched(queries, responses, finish_reasons):
    if any(response.startswith("raise") for response in responses):
        raise RuntimeError("a batch with one bad response")
    if any(response.startswith("short") for response in responses):
        return [True]
    rows = zip(queries, responses, finish_reasons, strict=True)
    return [after_marker(*row) for row in rows]


batched.batched = True


def too_few(response):
    return True


def with_example(query, response, finish_reason):
    return "magic" in response


with_example.example = lambda query: f"the magic word for {query.query_id}"


def steps(query, steps, finish_reason):
    return [1.0 if "=" in step or "#" in step else -1.0 for step in steps]


def steps_of_wrong_length(query, steps, finish_reason):
    return [1.0]


class Changing:
    """A reward that is not the same the second time."""

    def __init__(self):
        self.calls = collections.Counter()

    def __call__(self, query, response, finish_reason):
        self.calls[query.query_id, response] += 1
        is_odd = self.calls[query.query_id, response] % 2 == 1
        return is_odd and after_marker(query, response, finish_reason)


changing = Changing()
