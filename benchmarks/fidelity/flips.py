"""Where two runs drew different tokens, and how close the two scores were.

A flip is the first token of a row that differs; what follows it follows from it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import figures
from benchmarks.fidelity import stored
from bstar_jax import model, sharding
from bstar_jax.config import from_dict
from bstar_jax.kernels import contract, reference
from bstar_jax.phases.opening import resolve_model
from bstar_jax.run.checkpoints import Checkpoints
from bstar_jax.sampling.keys import Keys, at_token
from bstar_jax.tokenizer import Tokenizer, load

MOST_FLIPS = 1e-4  # a token
MOST_FLOAT = 1e-4
IDENTITY = ("query_id", "sample_index", "temperature", "top_k")
DISCRETE = ("num_tokens", "finish_reason", "answer", "correct", "reason")
FLOATS = ("logprob", "process_reward", "reward")


@dataclasses.dataclass(frozen=True)
class Flip:
    """One row's first differing token.

    Attributes:
      row: The row as one device stored it.
      before: Response tokens before the flip, equal in both.
      ours: The token that one device drew.
      theirs: The token that the mesh drew.
    """

    row: dict[str, Any]
    before: tuple[int, ...]
    ours: int
    theirs: int


@dataclasses.dataclass
class RowDifferences:
    """How the rows of two runs differ.

    Attributes:
      rows: Rows compared.
      tokens: Tokens compared: of a row with a flip those up to it.
      flips: Rows with a flip.
      discrete_differences: Query and column of values that differ though no token does.
      largest_float_difference: Of each float column, over the rows without a flip.
    """

    rows: int = 0
    tokens: int = 0
    flips: int = 0
    discrete_differences: list[str] = dataclasses.field(default_factory=list)
    largest_float_difference: dict[str, float] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(FLOATS, 0.0)
    )

    @property
    def flips_per_token(self) -> float:
        """Share of the tokens compared that are a flip."""
        return self.flips / self.tokens

    def note_float(self, name: str, difference: float) -> None:
        """Keeps the larger of this difference and the one known."""
        known = self.largest_float_difference
        known[name] = max(known.get(name, 0.0), difference)

    def add(self, other: RowDifferences, name: str) -> None:
        """Adds the differences in another file, which has this name."""
        self.rows += other.rows
        self.tokens += other.tokens
        self.flips += other.flips
        self.discrete_differences += [f"{name}: {each}" for each in other.discrete_differences]
        for column, difference in other.largest_float_difference.items():
            self.note_float(column, difference)

    def beyond_limits(self) -> list[str]:
        """What passed a limit."""
        wrong = [f"{text} differs" for text in self.discrete_differences]
        if self.flips > MOST_FLIPS * self.tokens:
            wrong.append(f"{self.flips} flips in {self.tokens} tokens")
        for column, value in self.largest_float_difference.items():
            if value > MOST_FLOAT:
                wrong.append(f"{column} differs by {value:.1e}")
        return wrong


def compare_rows(
    one: pathlib.Path, mesh: pathlib.Path, tokenizer: Tokenizer
) -> tuple[RowDifferences, list[Flip]]:
    """Compares the rows of two Parquet files of the same phase.

    `selected` is compared for queries without a flip, since one response bears on another; the
    other columns for all rows without one.

    Args:
      one: File of the run on one device.
      mesh: File of the run on the mesh.
      tokenizer: The tokenizer of both.

    Raises:
      SystemExit: If the files do not hold rows of the same queries and cells.
    """
    ours, theirs = (stored.rows(file).to_pylist() for file in (one, mesh))
    differences, flips, alike = RowDifferences(rows=len(ours)), list[Flip](), []
    for a, b in zip(ours, theirs, strict=True):
        if any(a[name] != b[name] for name in IDENTITY):
            raise SystemExit(f"{one} and {mesh} hold other rows: {a} {b}")
        left, right = _tokens(a, tokenizer), _tokens(b, tokenizer)
        if left == right:
            differences.tokens += len(left)
            alike.append((a, b))
            continue
        pairs = enumerate(zip(left, right, strict=False))
        first = next((i for i, (x, y) in pairs if x != y), min(len(left), len(right)))
        differences.tokens += first + 1
        flips.append(Flip(a, tuple(left[:first]), left[first], right[first]))
    differences.flips = len(flips)
    flipped = {flip.row["query_id"] for flip in flips}
    for a, b in alike:
        names = DISCRETE + (("selected",) if a["query_id"] not in flipped else ())
        changed = [f"{a['query_id']} {name}" for name in names if a[name] != b[name]]
        differences.discrete_differences += changed
        for name in FLOATS:
            if a[name] is not None:
                differences.note_float(name, abs(a[name] - b[name]))
    return differences, flips


def compare_scores(one: pathlib.Path, mesh: pathlib.Path) -> dict[str, Any]:
    """The choices of two balance.json, and the largest difference of a cell's score."""
    ours, theirs = (json.loads(file.read_text()) for file in (one, mesh))
    difference = np.abs(np.array(ours["score"]) - np.array(theirs["score"]))
    return {
        "chosen": [ours["chosen"], theirs["chosen"]],
        "largest_difference": float(difference.max()),
    }


def chosen(balance: pathlib.Path) -> dict[str, Any] | None:
    """The cell that a balance.json chose; None where there is no file, as of a single cell."""
    return json.loads(balance.read_text())["chosen"] if balance.exists() else None


def gaps_text(gaps: Iterable[float | None]) -> str:
    """The gaps between the two scores of each flip; "?" where there is none."""
    return ", ".join("?" if gap is None else f"{gap:.1e}" for gap in gaps) or "-"


def show(sampled: Mapping[str, dict[str, Any]]) -> None:
    """Prints what each phase differs in, as `mesh.compare_sampling` returns it."""
    rows = []
    for name, found in sampled.items():
        floats = [f"{k} {v:.1e}" for k, v in found["largest_float_difference"].items()]
        counts = [f"{found[key]:,}" for key in ("rows", "tokens", "flips")]
        share, gaps = f"{found['flips_per_token']:.1e}", gaps_text(found["score_gaps"][:10])
        rows.append([name, *counts, share, gaps, ", ".join(floats)])
    header = "sampling,rows,tokens,flips,a token,score gaps,largest difference".split(",")
    print(f"\n{figures.table(header, rows)}\n")
    for found in sampled.values():
        if "scores" in found:
            choices = [
                {axis: choice[axis] for axis in ("temperature", "top_k", "threshold")}
                for choice in found["scores"]["chosen"]
            ]
            difference = found["scores"]["largest_difference"]
            print(f"choices {choices}, balance scores within {difference:.1e}\n")


def _tokens(row: dict[str, Any], tokenizer: Tokenizer) -> list[int]:
    """Token ids as drawn: text is stored, so it is encoded again."""
    ended = [tokenizer.end_id] if row["finish_reason"] == "stop" else []
    return [*tokenizer.encode(row["response"]), *ended]


class Scorer:
    """Computes the scores that a plain forward pass gives the two tokens of a flip."""

    def __init__(self, run: pathlib.Path, config: dict[str, Any]):
        """Opens a run's parameters to read them on one device."""
        self.config = from_dict(config)
        self.tokenizer = load(run / "tokenizer")
        self.model = resolve_model(self.config.model, self.tokenizer)
        self.forward = jax.jit(functools.partial(model.forward, self.model))
        one_device = dataclasses.replace(self.config.mesh, data=1, fsdp=1, tensor=1)
        mesh = sharding.make_mesh(one_device, jax.devices()[:1])
        self.checkpoints = Checkpoints(run / "checkpoints", self.model, mesh, read_only=True)

    def gaps(self, flips: Iterable[Flip], phase: str, iteration: int) -> list[float | None]:
        """Score of one device's token less that of the mesh's, for each flip.

        Scores are logit / temperature + noise; at temperature 0 they are logits. A gap is below 0
        where the plain forward pass sides with the mesh, and None where the draw is not over single
        columns.
        """
        params = self.checkpoints.restore_params(iteration)
        section = self.config.generate
        length = section.max_prompt_tokens + section.max_tokens
        gaps = []
        for flip in flips:
            prompt = self.tokenizer.encode_prompt(flip.row["prompt"])
            text = [*prompt, *flip.before]
            padded_1L = np.full((1, length), self.tokenizer.pad_id, np.int32)
            padded_1L[0, : len(text)] = text
            logits_V = self.forward(params, jnp.asarray(padded_1L))[0, len(text) - 1]
            gaps.append(self._gap(flip, logits_V, phase))
        return gaps

    def _gap(self, flip: Flip, logits_V: jax.Array, phase: str) -> float | None:
        row, vocab = flip.row, logits_V.size
        if row["temperature"] == 0:
            return float(logits_V[flip.ours] - logits_V[flip.theirs])
        if vocab > contract.DENSE_VOCAB and not 0 < row["top_k"] < vocab:
            return None
        keys = Keys(self.config.seed, row["iteration"], phase)
        key_1 = keys.rows([row["query_id"]], np.array([[row["sample_index"]]]))[0]
        key_2 = at_token(key_1, jnp.array([len(flip.before)]))[0]
        temperature = jnp.float32(row["temperature"])
        score_V = reference.column_scores(logits_V.astype(jnp.float32), key_2, temperature)
        return float(score_V[flip.ours] - score_V[flip.theirs])
