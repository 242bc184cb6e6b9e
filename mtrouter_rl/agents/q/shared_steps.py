"""One gradient step by several processes: each takes some rows of the same batch (or all), and the gradients are averaged.

Every process has all weights and the whole optimizer. Before each step of the optimizer the gradients become those of the whole
batch, so all processes go on with the same weights: those of one process, up to the order of sums.

Source: Li et al., PyTorch Distributed (2020). Deviation: no overlap with the backward pass, since the networks here are small.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from mtrouter_rl.agents.q.learners import Networks
from mtrouter_rl.agents.q.networks import GradientDropout
from mtrouter_rl.errors import RouterError
from mtrouter_rl.transitions.arrays import MiniBatch
from mtrouter_rl.workers.peers import Peers


class SharedSteps:
    """This process's part of the steps of a training.

    Args:
        peers: The processes; a process alone takes whole batches and changes nothing.
        networks: Modules and optimizer of the training.
        batch_size: Rows of a whole batch.
        is_split: Whether processes share the rows. If not, each of them takes all, and they train no faster than one: where
            rows count differently, as episodes of different lengths do, the mean over a part would be another one.

    Raises:
        InvalidConfigError: If the batch has fewer rows than there are processes.
    """

    def __init__(self, peers: Peers, networks: Networks, *, batch_size: int, is_split: bool = True) -> None:
        self.peers = peers
        self.rows = peers.share_of(batch_size) if is_split else slice(0, batch_size)
        self.weight = (self.rows.stop - self.rows.start) / batch_size if is_split else 1 / peers.n
        if peers.n == 1:
            return
        for network in networks.modules.values():
            for module in network.modules():
                if is_split and isinstance(module, GradientDropout):
                    module.share = (batch_size, self.rows)
        networks.optimizer.register_step_pre_hook(self._average)

    def of_batch(self, batch: MiniBatch) -> MiniBatch:
        """This process's rows of a batch that all processes have drawn alike."""
        return batch if self.peers.n == 1 else batch.part(self.rows)

    def mean_losses(self, steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Means over steps and rows of the losses of all processes, by name.

        Raises:
            LostProcessError: If another process does not answer.
        """
        own = {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
        if self.peers.n == 1:
            return own
        means = torch.tensor(list(own.values()), dtype=torch.float64) * self.weight
        self.peers.add_up(means)
        return dict(zip(own, means.tolist(), strict=True))

    def check_equal(self, *, n_done: int, checksum: int) -> None:
        """Refuse to begin where processes differ in what they learn from, or in how far they are.

        Args:
            n_done: Iterations that this process found done.
            checksum: Of everything that decides the training.

        Raises:
            RouterError: If they differ.
            LostProcessError: If another process does not answer.
        """
        first, *others = self.peers.all_of([n_done, checksum])
        for rank, (n_others, other_checksum) in enumerate(others, start=1):
            if other_checksum != first[1]:
                raise RouterError(
                    f"process {rank} was given another training than process 0 (other parameters, seed or log); start every "
                    "process with the same command, log and cards"
                )
            if n_others != first[0]:
                raise RouterError(
                    f"process {rank} found a checkpoint of {n_others} iterations and process 0 one of {first[0]}; --out must "
                    "be a folder that every process sees"
                )

    def _average(self, optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        """Make the gradients of the own rows those of the whole batch."""
        gradients: list[Tensor] = [
            one.grad for group in optimizer.param_groups for one in group["params"] if one.grad is not None
        ]
        flat = torch.cat([gradient.flatten() for gradient in gradients]) * self.weight
        self.peers.add_up(flat)
        for gradient, averaged in zip(gradients, torch.split(flat, [one.numel() for one in gradients]), strict=True):
            gradient.copy_(averaged.view_as(gradient))
