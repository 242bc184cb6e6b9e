"""Logs of the routing toy, for whatever learns from a log."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def log():
    from tests.cases.routing_toy import uniform_log

    return uniform_log(n_episodes=1000)


@pytest.fixture(scope="session")
def small_log():
    from tests.cases.routing_toy import uniform_log

    return uniform_log(n_episodes=60)


@pytest.fixture(scope="session")
def log_of():
    """The log that an algorithm can learn from: single-turn routers need episodes of one model."""
    from tests.cases.routing_toy import single_model_log, uniform_log

    logs = {True: single_model_log(), False: uniform_log(n_episodes=60)}
    return lambda algorithm: logs[algorithm.startswith("task_")]
