import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for `routing_toy`: importlib mode puts no test folder on the path


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def log():
    from routing_toy import uniform_log

    return uniform_log(n_episodes=1000)


@pytest.fixture(scope="session")
def small_log():
    from routing_toy import uniform_log

    return uniform_log(n_episodes=60)


@pytest.fixture(scope="session")
def log_of():
    """The log that an algorithm can learn from: single-turn routers need episodes of one model."""
    from routing_toy import single_model_log, uniform_log

    logs = {True: single_model_log(), False: uniform_log(n_episodes=60)}
    return lambda algorithm: logs[algorithm.startswith("task_")]
