"""A loaded task: its queries in four splits, and the sources that they come from.

What grading needs of a query besides its reference answer is in `Query.fields`, as values that
JSON has too, by the `answer_kind` of the query's source:

  "choice"   `labels` and `options`: the name of each option, such as "A" or "1", and its text.
  "code"     `tests`: how a program is tested, in one of four forms.

    {"kind": "asserts", "setup": str, "asserts": [str, ...]}
        After the program run `setup`, which may use what the program defines; then every
        assert, a line or a few. (MBPP, own files)
    {"kind": "check", "prompt": str, "test": str, "entry_point": str}
        The response continues `prompt`, and both together are the program. After it run `test`,
        which defines `check`, then call `check` with the function named `entry_point`.
        (HumanEval)
    {"kind": "calls", "fn_name": str, "inputs": [[argument, ...], ...], "outputs": [value, ...]}
        The program defines a function, or a class `Solution` with a method, of that name. Called
        with the arguments `inputs[i]` it returns `outputs[i]`; or, where `outputs[i]` is a list
        of one, what is in that list, as the published tests hold both. Tuples count as lists.
        (APPS)
    {"kind": "stdio", "inputs": [str, ...], "outputs": [str, ...]}
        The program reads `inputs[i]` as its standard input and writes `outputs[i]`. (APPS)

  `inputs` and `outputs` have equal length, and no list of tests is empty; integers may have more
  digits than Python reads or writes by default. Except for "check", the program is the content of
  the response's fenced block, or the whole response.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping

from bstar_jax.config import UserError
from bstar_jax.grading.kinds import answer_kind
from bstar_jax.isolation.outside import Outside
from bstar_jax.records import SPLITS, Query, Source
from bstar_jax.tasks.left_out import LeftOut


@dataclasses.dataclass(frozen=True)
class LoadedTask:
    """A named set of queries, and the sources that they come from.

    Attributes:
      name: Its name in the config.
      splits: The queries of "sft", "train", "calibration" and "heldout", in their order. Where
        a file brings no split for warm-up, the queries of sft are the first of train.
      sources: The sources of the queries, by name.
      vocabulary: All words of the task where they are few and known, else ().
      places: Where each query was read, "FILE, line N" by its id, for messages; {} where the
        task is generated.
      notes: What a person should know of how the files were read, such as records left out.
      left_out: Records that cannot be read and were left out, where the settings allow it.
      tokenizer: Path of the task's own tokenizer; "" if it has none.
      functions: The functions that made the queries, by source.
      shares: The share of each source in every iteration; {} if all train queries count alike.
    """

    name: str
    splits: Mapping[str, tuple[Query, ...]]
    sources: Mapping[str, Source]
    vocabulary: tuple[str, ...] = ()
    places: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    notes: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    left_out: tuple[LeftOut, ...] = dataclasses.field(default=(), compare=False)
    tokenizer: str = ""
    functions: Mapping[str, Outside] = dataclasses.field(default_factory=dict, compare=False)
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if tuple(self.splits) != SPLITS:
            raise ValueError(f"a task has the splits {SPLITS}, not {tuple(self.splits)}")
        named = {query.source for queries in self.splits.values() for query in queries}
        if not named <= set(self.sources):
            raise ValueError(f"queries name the sources {named}, not {set(self.sources)}")

    @functools.cached_property
    def query_by_id(self) -> Mapping[str, Query]:
        """Every query of the task by its id."""
        return {query.query_id: query for name in SPLITS for query in self.splits[name]}

    def source(self, query_id: str) -> Source:
        """Returns the source of a query."""
        return self.sources[self.query_by_id[query_id].source]

    def group(self, query_id: str) -> str:
        """Returns the name under which figures of a query are also given.

        It is the source, and the label where its record has one: "math", "math/algebra".
        """
        query = self.query_by_id[query_id]
        return f"{query.source}/{query.label}" if query.label else query.source

    def equations(self, query_id: str, response: str) -> list[str]:
        """Reads the equations of a response to a query; [] where its source has none."""
        read = self.source(query_id).equations
        return read(response) if read else []

    def hint(self, query: Query) -> str:
        """Returns the prompt of `query` with its reference answer given away.

        For a choice this is the label and the text of the right option; for code a person's
        program that passes.

        Example (stories): `Eve has 8 . eats 3 . How many now? # 5 .`

        Raises:
          UserError: If there is no reference to give, as where a program has tests alone.
        """
        source = self.sources[query.source]
        reference = answer_kind(source).hint(query)
        if not reference:
            raise UserError(
                f"query {query.query_id!r} has no human solution that could be given away as a "
                "hint; set generate.rationalize=False, or leave such queries out of train"
            )
        question = str(query.fields["question"])
        return source.shots + fill(source.hint_prompt, question=question, reference=reference)


def fill(template: str, **values: str) -> str:
    r"""Fills values into a template; only the given names in braces are special.

    Unlike `str.format` it leaves every other brace alone, as mathematics has many, and never
    looks into what it put in.

    Example: fill("{question} \frac{1}{2}", question="{a}") -> "{a} \frac{1}{2}"
    """
    names = "|".join(map(re.escape, values))
    return re.sub(rf"\{{({names})\}}", lambda match: values[match[1]], template)
