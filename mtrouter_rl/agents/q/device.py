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
    if name == CPU:
        return torch.device(CPU)
    asked = re.fullmatch(r"cuda(?::(0|[1-9]\d*))?", name)
    if asked is None:
        raise InvalidConfigError(f"device is '{name}', must be 'cpu', 'cuda' or 'cuda:N' with the number of a GPU")
    n_gpus = torch.cuda.device_count()
    if int(asked[1] or 0) >= n_gpus:
        raise InvalidConfigError(
            f"device is '{name}', but torch {torch.__version__} finds {n_gpus} GPUs here; leave --device out to train on the "
            "processor, or install a build of torch for CUDA on a machine that has such a GPU"
        )
    return torch.device(name)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever is drawn inside, torch's random state is afterwards as it was before, on all devices that are in use."""
    is_used: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if is_used else ()):
        yield
