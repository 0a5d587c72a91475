"""Self-training that keeps exploration and exploitation in balance (B-STaR, arXiv:2412.17256).

After warm-up, each iteration runs six phases:

    calibrate   sample the grid of temperatures and top-k on calibration queries, score every
                cell (temperature, top-k, threshold, process weight), choose the best
    generate    answer the training queries at the chosen temperature and top-k
    grade       reward = 1[answer equals reference] + process weight * process reward
    select      of each query the distinct responses with a reward above the threshold
    improve     optimizer steps on what was selected
    monitor     figures on held-out queries; the iteration is on disk

The balance score of a query with n selected responses, n' of them correct, wanting n*, is
min(n'/n*, 1) * n'/n: the first factor asks for exploration, the second for exploitation.

STaR, RFT, ReST-EM, iterative and online RFT are settings of this loop: a grid of one cell,
and where parameters, optimizer and data of an iteration come from.
"""

from __future__ import annotations

from bstar_jax.phases.calibrate import calibrate
from bstar_jax.run.data import check_inputs
from bstar_jax.phases.generate import generate, grade, select
from bstar_jax.phases.monitor import monitor
from bstar_jax.process_reward.learning import learn_process_rewards
from bstar_jax.phases.run import Run
from bstar_jax.phases.training import improve, sampling_params, state_before, warm_up


def self_train(run: Run) -> None:
    """Runs a run to its last iteration, from wherever it stands."""
    check_inputs(run)
    run.begin()
    run.stop.check()
    state = None
    for iteration in run.iterations_left():
        if iteration == 0:
            trained = warm_up(run)
            learn_process_rewards(run, trained)
        else:
            state = state or state_before(run, iteration)
            params = sampling_params(run, state.params)
            choice = calibrate(run, iteration, params)
            rollouts = generate(run, iteration, params, choice)
            del params
            run.forget_process_model()  # what sampled makes room for what trains
            rollouts = grade(run, iteration, rollouts)
            selected = select(run, iteration, rollouts, choice)
            state = improve(run, iteration, state, selected)
            trained = state.params
        monitor(run, iteration, sampling_params(run, trained))
        run.end_iteration()
