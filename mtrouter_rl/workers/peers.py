"""Processes that `torchrun` started to do one training together.

`torchrun` starts them, numbers them and ends them all when one is lost; `torch.distributed` carries the numbers between them,
over gloo, since trainings run on processors. Torch is imported when a process joins the others, not before.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mtrouter_rl.errors import InvalidConfigError, LostProcessError

if TYPE_CHECKING:
    from torch import Tensor

_STARTED_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"
_LOOPBACK = "lo"


@dataclass(frozen=True, kw_only=True)
class Peers:
    """One process among those of a training. The default is a process alone, for which every method is free.

    Attributes:
        rank: Its number, from 0.
        n: How many there are.
    """

    rank: int = 0
    n: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.n:
            raise InvalidConfigError(f"rank is {self.rank} of {self.n} processes, must be from 0 to {self.n - 1}")

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and tells how far the training is."""
        return self.rank == 0

    def share_of(self, n_rows: int) -> slice:
        """This process's rows of a batch; the shares of all processes are the batch, to within one row equally large.

        Raises:
            InvalidConfigError: If the batch has fewer rows than there are processes.

        Example:
            >>> [Peers(rank=rank, n=3).share_of(8) for rank in range(3)]
            [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
        """
        if n_rows < self.n:
            raise InvalidConfigError(
                f"batch_size is {n_rows} and torchrun started {self.n} processes, each of which needs a row; start fewer "
                "(--nproc-per-node, --nnodes), or raise batch_size in the agent card"
            )
        return slice(n_rows * self.rank // self.n, n_rows * (self.rank + 1) // self.n)

    def add_up(self, values: "Tensor") -> None:
        """Replace values, in place, by their sum over the processes.

        Raises:
            LostProcessError: If another process does not answer.
        """
        if self.n > 1:
            import torch.distributed

            with self._together():
                torch.distributed.all_reduce(values)

    def all_of(self, numbers: Sequence[int]) -> list[list[int]]:
        """What every process gives, by rank; all give equally many numbers.

        Raises:
            LostProcessError: If another process does not answer.
        """
        if self.n == 1:
            return [list(numbers)]
        import torch

        table = torch.zeros((self.n, len(numbers)), dtype=torch.int64)
        table[self.rank] = torch.tensor(numbers)
        self.add_up(table)
        found: list[list[int]] = table.tolist()
        return found

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let the first process do what follows before the others do it, which then find it done.

        Raises:
            LostProcessError: If another process does not answer.
        """
        if not self.is_first:
            self.all_of([0])
        yield
        if self.is_first:
            self.all_of([0])

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise LostProcessError(
                f"process {self.rank} of {self.n}: another process of the training was lost or does not answer "
                f"({str(error).strip().splitlines()[0]}); its own message says why; run the same command again to go on from "
                "the last checkpoint"
            ) from error


ALONE = Peers()
"""A process that trains by itself."""


def peers_of_torchrun() -> Peers:
    """This process among those that `torchrun` started; `ALONE` if it was not started so. Nothing is sent yet.

    Raises:
        InvalidConfigError: If the variables that torchrun sets are incomplete.
    """
    if _STARTED_BY_TORCHRUN not in os.environ:
        return ALONE
    try:
        return Peers(rank=int(os.environ["RANK"]), n=int(os.environ["WORLD_SIZE"]))
    except (KeyError, ValueError) as error:
        raise InvalidConfigError(
            f"{_STARTED_BY_TORCHRUN} is set, but RANK and WORLD_SIZE are not those of torchrun ({error}); start with "
            f"torchrun, or unset {_STARTED_BY_TORCHRUN}"
        ) from error


@contextmanager
def joined(peers: Peers) -> Iterator[Peers]:
    """Connect a process with its peers, and part from them when all have reached the end.

    Where all of them are on this machine, they speak over its loopback interface and nothing leaves it.

    Raises:
        LostProcessError: If they are not found, or one is lost before the end.
    """
    if peers.n == 1:
        yield peers
        return
    import torch.distributed
    import torch.distributed.nn  # its functions have the group as default: imported later, it would keep the group's threads

    names = [name for _, name in socket.if_nameindex()]
    if os.environ.get("LOCAL_WORLD_SIZE") == str(peers.n) and _LOOPBACK in names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK)
    with peers._together():
        torch.distributed.init_process_group("gloo")
    try:
        yield peers
        peers.all_of([0])  # torchrun ends all when one ends badly: none leaves while the first still writes
    finally:
        torch.distributed.destroy_process_group()
