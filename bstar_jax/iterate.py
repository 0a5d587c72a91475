"""Self-training that keeps exploration and exploitation in balance (B-STaR, arXiv:2412.17256).

After warm-up (iteration 0), each iteration has six phases:

    calibrate   answer the calibration queries over the grid, score every cell, choose one
    generate    answer the training queries as the chosen cell says, and grade the responses
    grade       log a summary of the grades
    select      keep the distinct responses of each query with a reward above the threshold
    improve     take optimizer steps on the selected responses
    monitor     measure the policy on held-out queries; the iteration is then on disk

A cell is (temperature, top-k, threshold, process weight). A query with n selected responses, n' of
them correct, scores min(n'/n*, 1) * n'/n, where n* responses are wanted: the first factor asks for
exploration, the second for exploitation. The balance score of a cell is the mean over queries.

STaR, RFT, ReST-EM, iterative and online RFT are settings of this loop: a grid of one cell, and the
choice of where the parameters, the optimizer state and the data of an iteration come from.
"""

from __future__ import annotations

from bstar_jax.phases.calibrate import calibrate
from bstar_jax.phases.generate import generate
from bstar_jax.phases.monitor import monitor
from bstar_jax.phases.run import Run
from bstar_jax.phases.select import grade, select
from bstar_jax.phases.training import check_inputs, improve, state_before, warm_up
from bstar_jax.process_reward.learning import learn_process_reward


def self_train(run: Run) -> None:
    """Runs the iterations of a run that are not complete yet."""
    config, task, workspace, policy = run.config, run.task, run.workspace, run.policy
    check_inputs(config, task, policy.tokenizer)
    workspace.begin(config, policy, task.left_out)
    state = None
    for iteration in workspace.iterations_left(config.loop.iterations):
        if iteration == 0:
            state = warm_up(config, task, workspace, policy)
            if run.process_reward:
                learn_process_reward(
                    config, task, workspace, run.process_reward, run.grader, run.collecting, state
                )
        else:
            state = state or state_before(config, policy, iteration)
            with run.collecting(state.params) as collect:
                choice = calibrate(config, task, workspace, collect, iteration)
                rollouts = generate(config, task, workspace, collect, iteration, choice)
            rollouts = grade(task, workspace, iteration, rollouts)
            selected = select(config, task, workspace, iteration, rollouts, choice)
            state = improve(config, task, workspace, policy, iteration, state, selected)
        with run.collecting(state.params) as collect:
            monitor(config, task, workspace, policy, collect, iteration)
        workspace.end_iteration()
