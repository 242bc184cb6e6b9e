"""The number of threads changes the order of sums, and so the last bits of every weight: training and estimates use one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def one_thread() -> Iterator[None]:
    """While it lasts, torch and the libraries below numpy and scikit-learn use one thread, whatever the environment says.

    So the same seed gives the same weights on a machine with any number of cores. Work is spread over processes instead.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(before)
