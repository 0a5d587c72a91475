"""Law 7 on every mesh of eight devices: what is trained and what is drawn is one device's.

One model serves them all: `tensor` divides its dimensions wherever it stands. Its vocabulary is
larger than DENSE_VOCAB, so that draws without top-k go by blocks, and no multiple of any padding.
"""

import functools
import math

import jax
import numpy as np
import pytest

from bstar_jax import model, sharding, tokenizer
from bstar_jax.balance import Choice
from bstar_jax.config import GenerateConfig, ModelConfig, OptimizerConfig, SftConfig, TrainingConfig
from bstar_jax.kernels import contract
from bstar_jax.sampling import Keys, generate
from bstar_jax.tasks import arithmetic
from bstar_jax.training import optimizer
from bstar_jax.training.batches import Example, encode, row_order
from bstar_jax.training.fit import fit
from bstar_jax.training.optimizer import Schedule
from bstar_jax.training.packing import arrange
from tests import builders

MESHES = [
    (data, fsdp, 8 // (data * fsdp))
    for data in (8, 4, 2, 1)
    for fsdp in (8, 4, 2, 1)
    if data * fsdp <= 8
]
WORDS = tokenizer.word_tokenizer(
    [*arithmetic.VOCABULARY, *(f"word{place}" for place in range(1_101))]
)
MODEL = ModelConfig(
    vocab_size=WORDS.vocab_size, width=48, layers=2, heads=8, kv_heads=8, feed_forward=128
)
STEPS, MOST_NORM, MOST_LOGPROB = 5, 1e-5, 1e-4
PACKED = TrainingConfig(row_tokens=96, micro_rows=8)


on_meshes = pytest.mark.parametrize("sizes", MESHES, ids=str)


def test_the_model_divides_among_all_ten_meshes():
    assert len(set(MESHES)) == 10 and {math.prod(sizes) for sizes in MESHES} == {8}
    for sizes in MESHES:
        sharding.check_model(builders.mesh(*sizes), MODEL)
    assert MODEL.vocab_size > contract.DENSE_VOCAB and MODEL.vocab_size % 2


@functools.cache
def start():
    """Parameters as a run starts from them."""
    return model.init(MODEL, jax.random.key(0))


# Training.


@functools.cache
def texts():
    """Stories with their solutions, as warm-up learns them."""
    sizes = {"sft": 64, "train": 1, "calibration": 1, "heldout": 1}
    task = arithmetic.load(seed=0, sizes=sizes, prompt="", hint_prompt="")
    examples = [
        Example(query.prompt, query.solution, query.query_id) for query in task.splits["sft"]
    ]
    rows, too_long = encode(WORDS, examples, max_prompt_tokens=40, max_tokens=40)
    assert not too_long
    return rows


def batch_at(step):
    """32 of them, a function of the step."""
    return texts().take(row_order(len(texts()), 32, step, (0, 0)))


def trained(mesh, training):
    """Parameters after STEPS steps at the settings of warm-up, with the true vocabulary."""
    sft, adam = SftConfig(), OptimizerConfig()
    schedule = Schedule(sft.learning_rate, STEPS, STEPS, sft.final_rate)
    state = optimizer.init_state(MODEL, adam, mesh, builders.for_training(MODEL, mesh, start()))
    ((state, _),) = fit(
        MODEL, adam, schedule, state, batch_at,
        mesh=mesh, training=training, first=0, steps=STEPS, every=STEPS,
    )  # fmt: skip
    return model.cut_vocab(MODEL, jax.device_get(state.params))


@functools.cache
def trained_alone():
    return trained(builders.mesh(), TrainingConfig())


def norms(got, expected):
    """||a - b|| / ||b|| of every tensor."""

    def norm(part):
        return np.linalg.norm(np.asarray(part, np.float64))

    pairs = zip(jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True)
    return {jax.tree_util.keystr(path): norm(a - b) / norm(b) for (path, a), b in pairs}


def assert_near_one_device(params):
    """Every tensor: `not <=` sees what is no number."""
    far = norms(params, trained_alone()).items()
    assert {name: norm for name, norm in far if not norm <= MOST_NORM} == {}


@pytest.mark.slow
@on_meshes
def test_training_is_that_of_one_device(sizes):
    assert_near_one_device(trained(builders.mesh(*sizes), TrainingConfig()))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 8, 1)], ids=str)
def test_packed_training_in_parts_is_that_of_one_device_at_once(sizes):
    assert_near_one_device(trained(builders.mesh(*sizes), PACKED))


@pytest.mark.slow
def test_training_in_parts_is_that_of_one_device_at_once():
    assert_near_one_device(trained(builders.mesh(2, 2, 2), TrainingConfig(micro_rows=8)))


@pytest.mark.slow
def test_what_is_compared_is_packed_in_parts_and_moves():
    for step in range(STEPS):
        segments_BL = arrange(batch_at(step), PACKED, shards=8).segments_BL
        assert len(segments_BL) == 2 * PACKED.micro_rows and segments_BL.max() > 1
    assert min(norms(trained_alone(), start()).values()) > 1e3 * MOST_NORM / 2


# Sampling.

CHOICES = [Choice(*cell, 0.0, 1.0) for cell in ((0.0, 0), (0.7, 5), (1.0, 0), (1.0, 40), (1.3, 0))]
COLUMNS = "query_id sample_index temperature top_k response num_tokens finish_reason".split()


def drawn(mesh):
    """Rows, and the log-probability of each."""
    rollouts = generate(
        MODEL,
        builders.for_sampling(MODEL, mesh, start()) if mesh else start(),
        builders.queries(16),
        choice=CHOICES,
        keys=Keys(0, 1, "generate"),
        max_tokens=16,
        tokenizer=WORDS,
        responses=3,
        settings=GenerateConfig(max_prompt_tokens=8, batch=240, slots=64),
        mesh=mesh,
    )
    rows = list(zip(*map(rollouts.column, COLUMNS), strict=True))
    return rows, np.array(rollouts.column("logprob"))


@functools.cache
def drawn_alone():
    return drawn(None)


@pytest.mark.slow
@on_meshes
def test_the_tokens_drawn_are_those_of_one_device(sizes):
    """Law 1 lets one token in 10,000 differ; these are fewer, so none may."""
    (rows, logprob), (expected, alone) = drawn(builders.mesh(*sizes)), drawn_alone()
    num_tokens = np.array([row[COLUMNS.index("num_tokens")] for row in expected])
    assert 3_000 < num_tokens.sum() < 10_000
    assert rows == expected
    assert (np.abs(logprob - alone) <= MOST_LOGPROB * num_tokens).all()
