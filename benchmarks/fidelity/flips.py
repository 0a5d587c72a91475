"""Where two runs drew different tokens, and how close the two scores were; used by mesh.

A flip is the first token of a row that differs; what follows it follows from it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib

from benchmarks.fidelity import stored  # first: it fixes JAX's platform

# isort: split
import jax
import jax.numpy as jnp
import numpy as np

from bstar_jax import model, sharding, tokenizer
from bstar_jax.checkpoint import Checkpoints
from bstar_jax.config import from_dict
from bstar_jax.kernels import contract, reference
from bstar_jax.phases.opening import resolve_model
from bstar_jax.sampling.keys import Keys, at_token

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

    row: dict
    before: tuple[int, ...]
    ours: int
    theirs: int


def compare_rows(one, mesh, words):
    """Compares the rows of two Parquet files of the same phase.

    Args:
        one: File of the run on one device.
        mesh: File of the run on the mesh.
        words: The tokenizer of both.

    Returns:
        (figures, flips): `selected` is compared for queries without a flip, since one response
        bears on another; the other columns for all rows without one.
    """
    ours, theirs = (stored.rows(file).to_pylist() for file in (one, mesh))
    flips, tokens, changed, largest, flipped = [], 0, [], dict.fromkeys(FLOATS, 0.0), set()
    alike = []
    for a, b in zip(ours, theirs, strict=True):
        if any(a[name] != b[name] for name in ("query_id", "sample_index", "temperature", "top_k")):
            raise SystemExit(f"{one} and {mesh} hold other rows: {a} {b}")
        left, right = _tokens(a, words), _tokens(b, words)
        if left == right:
            tokens += len(left)
            alike.append((a, b))
            continue
        place = next(
            (i for i, pair in enumerate(zip(left, right, strict=False)) if len({*pair}) > 1),
            min(len(left), len(right)),
        )
        tokens += place + 1
        flipped.add(a["query_id"])
        flips.append(Flip(a, tuple(left[:place]), *(side[place] for side in (left, right))))
    for a, b in alike:
        names = DISCRETE + (("selected",) if a["query_id"] not in flipped else ())
        changed += [f"{a['query_id']} {name}" for name in names if a[name] != b[name]]
        for name in FLOATS:
            if a[name] is not None:
                largest[name] = max(largest[name], abs(a[name] - b[name]))
    figures = {
        "rows": len(ours),
        "tokens": tokens,
        "flips": len(flips),
        "flips_per_token": len(flips) / tokens,
        "discrete_differences": changed[:20],
        "largest_float_difference": largest,
    }
    return figures, flips


def compare_scores(one, mesh):
    """The choice of two balance.json, and the largest difference of a cell's score."""
    ours, theirs = (json.loads(file.read_text()) for file in (one, mesh))
    pairs = zip(_flat(ours["score"]), _flat(theirs["score"]), strict=True)
    return {
        "chosen": [ours["chosen"], theirs["chosen"]],
        "largest_difference": max(abs(a - b) for a, b in pairs),
    }


def chosen(balance):
    """The cell that a balance.json chose; None where there is no file, as of a single cell."""
    return json.loads(balance.read_text())["chosen"] if balance.exists() else None


def _flat(nested):
    return [nested] if not isinstance(nested, list) else [x for part in nested for x in _flat(part)]


def show(sampled):
    """Prints the figures of every phase, `compare_rows` with "score_gaps", as Markdown."""
    print("\n| sampling | rows | tokens | flips | a token | score gaps | largest difference |")
    print("|---|---|---|---|---|---|---|")
    for name, figures in sampled.items():
        gaps = ", ".join("?" if gap is None else f"{gap:.1e}" for gap in figures["score_gaps"][:10])
        floats = ", ".join(f"{k} {v:.1e}" for k, v in figures["largest_float_difference"].items())
        print(
            f"| {name} | {figures['rows']:,} | {figures['tokens']:,} | {figures['flips']} | "
            f"{figures['flips_per_token']:.1e} | {gaps or '-'} | {floats} |"
        )
        if "scores" in figures:
            choices = [
                {axis: chosen[axis] for axis in ("temperature", "top_k", "threshold")}
                for chosen in figures["scores"]["chosen"]
            ]
            difference = figures["scores"]["largest_difference"]
            print(f"\nchoices {choices}, balance scores within {difference:.1e}\n")
    print()


def _tokens(row, words):
    """Token ids as drawn: text is stored, so they are encoded again."""
    ended = [words.end_id] if row["finish_reason"] == "stop" else []
    return [*words.encode(row["response"]), *ended]


class Scorer:
    """The scores that a plain forward pass gives the two tokens of a flip."""

    def __init__(self, run, config):
        self.config = from_dict(config)
        self.words = tokenizer.load(pathlib.Path(run) / "tokenizer")
        self.model = resolve_model(self.config.model, self.words)
        self.forward = jax.jit(functools.partial(model.forward, self.model))
        one_device = dataclasses.replace(self.config.mesh, data=1, fsdp=1, tensor=1)
        mesh = sharding.make_mesh(one_device, jax.devices()[:1])
        folder = pathlib.Path(run) / "checkpoints"
        self.checkpoints = Checkpoints(folder, self.model, mesh, read_only=True)

    def gaps(self, flips, phase, iteration):
        """Score of one device's token less that of the mesh's, for each flip.

        Scores are logit / temperature + noise, at temperature 0 logits. Below 0 where the plain
        forward pass sides with the mesh. None where the draw is not over single columns.
        """
        params = self.checkpoints.restore_params(iteration)
        section = self.config.generate
        length = section.max_prompt_tokens + section.max_tokens
        gaps = []
        for flip in flips:
            prompt = self.words.encode_prompt(flip.row["prompt"])
            text = [*prompt, *flip.before]
            padded_1L = np.full((1, length), self.words.pad_id, np.int32)
            padded_1L[0, : len(text)] = text
            logits_V = self.forward(params, jnp.asarray(padded_1L))[0, len(text) - 1]
            gaps.append(self._gap(flip, logits_V, phase))
        return gaps

    def _gap(self, flip, logits_V, phase):
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
