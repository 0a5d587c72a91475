"""APPS: programming problems with tests by input and output, as published by Hendrycks et al.

Each line has a `question`, `starter_code`, which may be empty, `solutions` (a JSON text: a list of
programs) and `input_output` (a JSON text: an object with `inputs`, `outputs` and, where a
function is called, `fn_name`). The human solutions are the distinct programs of the list. Input or
output that is published as a list of lines becomes one text. A `problem_id` is unique only within
its file, so a query's id is `<split>/<problem_id>`. `difficulty` and `url` are not read.

Some published problems have no solution, and a few no tests. The latter cannot be graded: they
are left out, and the task's notes say how many.

Source: arXiv:2105.09938.
"""

from __future__ import annotations

from collections.abc import Mapping

from bstar_jax.records import Source
from bstar_jax.tasks import code
from bstar_jax.tasks.format import Format, ParsedRecord
from bstar_jax.tasks.record import Record
from bstar_jax.tasks.values import kind

_TESTS = "input_output"


def _read(record: Record) -> ParsedRecord | None:
    tests = _read_tests(record)
    if tests is None:
        return None
    question = [record.text("question", "question").strip()]
    if tests["kind"] == "calls":
        question.append(f"The tests call `{tests['fn_name']}`.")
    else:
        question.append("The program reads standard input and writes standard output.")
    if record.has("starter_code"):
        starter = code.block(record.text("starter_code", "starter code"))
        question.append(f"Start from this code:\n\n{starter}")
    found = _solutions(record)
    first, *more = map(code.fenced, found or [""])
    reference = found[0] if found else ""
    return ParsedRecord("\n\n".join(question), reference, first, {"tests": tests}, tuple(more))


def _solutions(record: Record) -> list[str]:
    """Returns the distinct programs, in their order."""
    if not record.has("solutions"):
        return []
    solutions = record.decoded("solutions", "solutions")
    if not isinstance(solutions, list) or not all(isinstance(text, str) for text in solutions):
        raise record.error("solutions", " is not the JSON of a list of programs")
    return list(dict.fromkeys(filter(None, map(code.block, solutions))))


def _read_tests(record: Record) -> dict[str, object] | None:
    """Reads the tests, as `task` describes them; None if there are none."""
    if record.knows(_TESTS) and not record.has(_TESTS):
        return None
    found = record.decoded(_TESTS, "tests")
    if not isinstance(found, dict):
        raise record.error(_TESTS, f" holds the JSON of {kind(found)}; the tests are an object")
    inputs, outputs = (_list(record, found, name) for name in ("inputs", "outputs"))
    if len(inputs) != len(outputs):
        raise record.error(
            _TESTS, f" has {len(inputs)} inputs and {len(outputs)} outputs; each has the other"
        )
    if not inputs:
        return None
    name = found.get("fn_name") or ""
    if name == "":
        inputs = [_one_text(record, "inputs", value) for value in inputs]
        outputs = [_one_text(record, "outputs", value) for value in outputs]
        return {"kind": "stdio", "inputs": inputs, "outputs": outputs}
    if not isinstance(name, str) or not name.isidentifier():
        raise record.error(_TESTS, f" has the fn_name {name!r}; it is the name of a function")
    for place, arguments in enumerate(inputs):
        if not isinstance(arguments, list):
            raise record.error(
                _TESTS,
                f" has {kind(arguments)} as inputs[{place}]; calls take a list of arguments",
            )
    return {"kind": "calls", "fn_name": name, "inputs": inputs, "outputs": outputs}


def _list(record: Record, found: Mapping[str, object], name: str) -> list:
    value = found.get(name)
    if not isinstance(value, list):
        held = f"{kind(value)} as" if name in found else "no"
        raise record.error(_TESTS, f" has {held} {name!r}; it is a list")
    return value


def _one_text(record: Record, name: str, value: object) -> str:
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise record.error(
            _TESTS, f" has {kind(value)} among its {name}; text is read and written, or its lines"
        )
    return value


FORMAT = Format(
    Source("apps", "code", hint_prompt=code.HINT_PROMPT),
    read=_read,
    prompt=code.PROMPT,
    names={"question": "question", "solution": "solutions", "tests": _TESTS},
    others=("starter_code",),
    id_fields=("problem_id", "id"),
    ids_repeat=True,
)
