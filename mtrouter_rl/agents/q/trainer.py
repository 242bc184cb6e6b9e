"""The one training loop. It runs any of the `learners` over a log, in iterations.

An iteration is one interval of the target network: with Q-learning, one step of fitted-Q iteration. Everything random
in an iteration comes from (seed, iteration), so a training that was killed and resumed ends with the same weights. Several
processes may share every step (`shared_steps`).
"""

import json
import logging
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.parameters import LoopParameters
from mtrouter_rl.agents.q.checkpoint import CheckpointStore
from mtrouter_rl.agents.q.device import random_state_kept, training_device
from mtrouter_rl.agents.q.learners import IMITATOR, Q_FUNCTIONS, Learner, Networks, TrainableAlgorithm, to_d3rlpy
from mtrouter_rl.agents.q.loop import check_loss, set_learning_rate
from mtrouter_rl.agents.q.networks import StateDict
from mtrouter_rl.agents.q.shared_steps import SharedSteps
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.metric_names import BELLMAN_RESIDUAL, IMITATION_LOSS, LEARNING_RATE, Q_MEAN, STEPS_PER_SECOND, TD_LOSS
from mtrouter_rl.progress import track
from mtrouter_rl.protocols import MetricSink, Router
from mtrouter_rl.records import JsonValue
from mtrouter_rl.transitions.arrays import MiniBatch, Transitions

_LOG = logging.getLogger(__name__)

MakeRouter = Callable[[Sequence[StateDict]], Router]
"""Makes the router of a training from the iterates that it kept, oldest first."""

N_WATCHED_STATES = 512
N_WATCHED_TRANSITIONS = 2048


def train(
    learner: Learner,
    transitions: Transitions,
    *,
    loop: LoopParameters,
    context: TrainingContext,
    identity: Mapping[str, JsonValue],
    make_router: MakeRouter,
) -> tuple[dict[str, Tensor], ...]:
    """Train, or resume a training from its checkpoint.

    Args:
        learner: Which algorithm.
        transitions: The log.
        loop: Length and optimizer of the training.
        context: Seed, checkpoint folder, metrics, progress bar, evaluation during the training, and the processes that train
            together; the first of them measures, evaluates and writes. Torch's global random state is left as it was.
        identity: Everything else that decides the result; a checkpoint of another training is refused by it.
        make_router: Makes the router that is evaluated during the training.

    Returns:
        Weights of the learner's modules after each of the last `loop.keep_last` iterations, oldest first.

    Raises:
        RouterError: If the checkpoint folder holds the checkpoint of another training, or one that cannot be read; if
            processes that train together were given different trainings.
        InvalidConfigError: If the training diverges, the seed is negative, a batch has fewer rows than there are processes, or
            the device is not here.
        LostProcessError: If another process of the training is lost.
    """
    whole_identity = {**identity, "seed": context.seed, "data": transitions.fingerprint()}
    store = CheckpointStore(context.checkpoint_folder, whole_identity)
    device = training_device(context.device)
    with random_state_kept():
        algorithm = _build(learner, transitions, loop=loop, seed=context.seed, device=device)
        networks = Networks(algorithm)
        n_done, kept = store.load(networks)
        of_episodes = learner.reads_episodes
        if of_episodes and context.peers.n > 1 and context.peers.is_first:
            _LOG.warning(
                "networks that learn from whole episodes are not shared out: every process does all of the work"
            )
        n_rows = transitions.episodes_of(loop.batch_size) if of_episodes else loop.batch_size
        shared = SharedSteps(context.peers, networks, batch_size=n_rows, is_split=not of_episodes)
        shared.check_equal(n_done=n_done, checksum=zlib.crc32(json.dumps(store.identity, sort_keys=True).encode()))
        algorithm.set_grad_step(1 + n_done * loop.steps_per_iteration)
        iterates = deque(kept, maxlen=loop.keep_last)
        watch = _Watch(learner, transitions, sink=context.metrics)
        logged_returns = transitions.as_return_regression()
        planned = transitions if learner.reads_next else transitions.without_next()
        left = range(n_done, loop.n_iterations)
        for iteration in track(left, "train", done=n_done, total=loop.n_iterations, is_shown=context.show_progress):
            learning_rate = set_learning_rate(networks.optimizer, loop, iteration)
            started = time.perf_counter()
            source = logged_returns if iteration < learner.n_warm_start else planned
            generator = _seed(context.seed, iteration + 1)
            draw = partial(source.sample_episodes if of_episodes else source.sample, n_rows, generator)
            losses = _run_iteration(algorithm, draw, shared, loop=loop, iteration=iteration)
            steps_per_second = loop.steps_per_iteration / (time.perf_counter() - started)
            iterates.append(networks.weights(*learner.modules))
            if not context.peers.is_first:
                continue
            step = (iteration + 1) * loop.steps_per_iteration
            context.metrics.scalar(LEARNING_RATE, learning_rate, step)
            context.metrics.scalar(STEPS_PER_SECOND, steps_per_second, step)
            watch.record(networks, losses=losses, step=step)
            if _is_evaluated(iteration, loop=loop, context=context):
                _evaluate(make_router(tuple(iterates)), context=context, step=step)
            # Last: a training that is killed before goes through this iteration again, its evaluation included.
            store.save(networks, iterates, n_done=iteration + 1)
    return tuple(iterates)


def _seed(seed: int, stage: int) -> np.random.Generator:
    """Seed torch's global state, which initialises weights and draws dropout, and give a generator for the rest."""
    if seed < 0:
        raise InvalidConfigError(f"seed is {seed}, must be 0 or more")
    sequence = np.random.SeedSequence([seed, stage])
    torch.manual_seed(int(sequence.generate_state(1)[0]))
    return np.random.default_rng(sequence)


def _build(
    learner: Learner, transitions: Transitions, *, loop: LoopParameters, seed: int, device: torch.device
) -> TrainableAlgorithm:
    _seed(seed, 0)
    algorithm = learner.build(loop, device)
    algorithm.create_impl((transitions.observations.shape[1],), transitions.n_models)
    return algorithm


def _run_iteration(
    algorithm: TrainableAlgorithm,
    draw: Callable[[], MiniBatch],
    shared: SharedSteps,
    *,
    loop: LoopParameters,
    iteration: int,
) -> dict[str, float]:
    """Gradient steps of one iteration; gives the means of the losses that d3rlpy names.

    d3rlpy renews the target network after every step whose number is a multiple of the interval. Steps are counted
    from 1 here, so that this is the last step of an iteration and not the first one of the next.
    """
    steps = [algorithm.update(to_d3rlpy(shared.of_batch(draw()))) for _ in range(loop.steps_per_iteration)]
    losses = shared.mean_losses(steps)
    check_loss(losses["loss"], loop, iteration)
    return losses


def _is_evaluated(iteration: int, *, loop: LoopParameters, context: TrainingContext) -> bool:
    """Whether the closed-loop evaluation is due after an iteration, counted from 0."""
    if context.evaluation is None:
        return False
    n_done = iteration + 1
    return n_done % context.evaluation.every == 0 or n_done == loop.n_iterations


def _evaluate(router: Router, *, context: TrainingContext, step: int) -> None:
    """Write what a closed-loop run gives; whatever it draws from torch's random state, the training never notices."""
    assert context.evaluation is not None
    with random_state_kept():
        values = context.evaluation.run(router)
    for name, value in values.items():
        context.metrics.scalar(name, value, step)


class _Watch:
    """Measures a training on fixed states and transitions, so that its curves are comparable from point to point."""

    def __init__(self, learner: Learner, transitions: Transitions, *, sink: MetricSink) -> None:
        self.sink = sink
        self.learner = learner
        starts = transitions.start_rows
        chosen = _spread(len(transitions), N_WATCHED_TRANSITIONS)
        rows = transitions.rows[chosen]
        self.starts = torch.from_numpy(transitions.observations[starts[_spread(len(starts), N_WATCHED_STATES)]])
        self.now = torch.from_numpy(transitions.observations[rows])
        self.next = torch.from_numpy(transitions.observations[rows + 1])
        self.actions = torch.from_numpy(transitions.actions[chosen])
        self.rewards = torch.from_numpy(transitions.rewards[chosen])
        self.unit = transitions.value_unit
        self.continues = 1 - torch.from_numpy(transitions.terminals[chosen])

    def record(self, networks: Networks, *, losses: Mapping[str, float], step: int) -> None:
        """Write the metrics of an iteration: the losses, and for Q-learning value estimate and Bellman residual."""
        if IMITATOR in self.learner.modules:
            self.sink.scalar(IMITATION_LOSS, losses.get("imitator_loss", losses["loss"]), step)
        if Q_FUNCTIONS not in self.learner.modules:
            return
        value = networks.greedy_values(self.starts).mean()
        chosen = networks.q_values(self.now).gather(1, self.actions[:, None]).squeeze(1)
        following = networks.greedy_values(self.next)
        residual = self.rewards + self.learner.gamma * self.continues * following - chosen
        # Where an imitator is trained beside the values, the loss is the sum of both.
        self.sink.scalar(TD_LOSS, losses["td_loss"] if IMITATOR in self.learner.modules else losses["loss"], step)
        self.sink.scalar(Q_MEAN, self.unit * float(value), step)
        self.sink.scalar(BELLMAN_RESIDUAL, self.unit * float(residual.abs().mean()), step)


def _spread(n: int, at_most: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Evenly spread indices into n things, all of them if they are few."""
    return np.unique(np.linspace(0, n - 1, min(n, at_most)).astype(np.int64))
