"""Where the networks of a training are: on the processor, or on a GPU that CUDA reaches."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mtrouter_rl.errors import InvalidConfigError

CPU = "cpu"


def training_device(name: str) -> torch.device:
    """The device of a name: "cpu", "cuda" (the first GPU) or "cuda:N".

    Raises:
        InvalidConfigError: If the name is another one, or torch does not find the GPU here.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise InvalidConfigError(f"device is '{name}', must be 'cpu', 'cuda' or 'cuda:N' with the number of a GPU")
    device = torch.device(name)
    n_gpus = torch.cuda.device_count()
    if device.type != CPU and (device.index or 0) >= n_gpus:
        raise InvalidConfigError(
            f"device is '{name}', but torch {torch.__version__} finds {n_gpus} GPUs here; leave --device out to train on the "
            "processor, or install a build of torch for CUDA on a machine that has such a GPU"
        )
    return device


@contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """While it lasts, torch's random state is the caller's; afterwards it is as it was, that of the device as well."""
    with torch.random.fork_rng(devices=[] if device.type == CPU else [device]):
        yield
