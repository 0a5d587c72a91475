"""What the minutes of the suite buy: processor time and compiled programs of every file.

    .venv/bin/python -m pytest -q -n 2 -p tests.minutes

prints a table after the tests, the dearest file first. MINUTES_FILE names a file that keeps every
test's own figures, a JSON object a line. Processor seconds count all cores, and the processes that
a test started and waited for; unlike wall time they say the same on a busy machine.
"""

import collections
import json
import os
import pathlib
import resource
import tempfile
import time

import pytest

_EVENTS = {
    "/jax/core/compile/backend_compile_duration": "programs",
    "/jax/compilation_cache/cache_hits": "found",
}
_counts = collections.Counter()


def _now() -> dict[str, float]:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own, children = (each.ru_utime + each.ru_stime for each in used)
    return {
        "seconds": time.monotonic(),
        "processor": own + children,
        "processes": children,
        "programs": _counts["programs"],
        "found": _counts["found"],
    }


def _count(event: str, *_, **__) -> None:
    if event in _EVENTS:
        _counts[_EVENTS[event]] += 1


def pytest_configure():
    """Counts what this process compiles, and what it finds among the programs kept."""
    if "MINUTES_FILE" not in os.environ:  # the workers of xdist inherit it
        os.environ["MINUTES_FILE"] = tempfile.mkstemp(suffix=".jsonl")[1]
    import tests.conftest  # noqa: F401  (sets the stage before JAX is imported)

    # isort: split
    import jax

    jax.monitoring.register_event_duration_secs_listener(_count)
    jax.monitoring.register_event_listener(_count)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Measures a test with the fixtures that it sets up and takes down."""
    before = _now()
    done = yield
    used = {name: value - before[name] for name, value in _now().items()}
    with open(os.environ["MINUTES_FILE"], "a") as file:
        file.write(json.dumps({"test": item.nodeid, **used}) + "\n")
    return done


def table(lines) -> list[str]:
    """Rows of Markdown: a file's tests, processor seconds, seconds, programs and programs found."""
    files = collections.defaultdict(collections.Counter)
    for line in lines:
        used = json.loads(line)
        name = used.pop("test").partition("::")[0]
        for part in (name, "all"):
            files[part].update({"tests": 1, **used})
    rows = ["| file | tests | processor s | of it in processes | wall s | compiled | found |"]
    rows += ["|---|---|---|---|---|---|---|"]
    for name, each in sorted(files.items(), key=lambda item: -item[1]["processor"]):
        keys = ("tests", "processor", "processes", "seconds", "programs", "found")
        rows.append(f"| {name} | " + " | ".join(f"{each[key]:,.0f}" for key in keys) + " |")
    return rows


def pytest_terminal_summary(terminalreporter, config):
    """Prints the table, once for all workers."""
    if not hasattr(config, "workerinput"):
        lines = pathlib.Path(os.environ["MINUTES_FILE"]).read_text().splitlines()
        terminalreporter.section("what the minutes buy")
        terminalreporter.write_line("\n".join(table(lines)))
