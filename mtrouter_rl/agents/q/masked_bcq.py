"""d3rlpy's discrete BCQ with action masks. Importing it imports d3rlpy."""

import dataclasses
import math
from typing import TYPE_CHECKING

import torch
from d3rlpy.algos import DiscreteBCQ, DiscreteBCQConfig
from d3rlpy.algos.qlearning.torch.bcq_impl import DiscreteBCQImpl
from torch import Tensor

if TYPE_CHECKING:
    from d3rlpy.models.torch.policies import CategoricalPolicy


class MaskedDiscreteBCQImpl(DiscreteBCQImpl):  # type: ignore[misc]
    """Chooses among the allowed models that the imitator finds likely: argmax_m {Q(h, m) : G(m | h) > tau max_m' G(m' | h)}.

    d3rlpy compares every model with the likeliest of all. If a forbidden one is the likeliest, it may leave none of the
    allowed ones, and then choose the forbidden one. Here both the maximum over G and the argmax are over allowed models.

    Source: Fujimoto et al., Benchmarking Batch Deep Reinforcement Learning Algorithms (2019), equation 8.
    """

    def inner_predict_best_action(self, x: Tensor) -> Tensor:
        """The chosen model of every row of [history features, allowed bits], shape (B,)."""
        values = self._q_func_forwarder.compute_expected_q(x)
        chosen: Tensor = values.masked_fill(~self.choosable(x), -torch.inf).argmax(dim=1)
        return chosen

    def choosable(self, x: Tensor) -> Tensor:
        """Which models may be chosen in rows of [history features, allowed bits], shape (B, M)."""
        bits = x[:, -self.action_size :] > 0.5
        allowed = bits | ~bits.any(dim=1, keepdim=True)
        imitator: CategoricalPolicy = self._modules.imitator
        logits = imitator(x).logits.masked_fill(~allowed, -torch.inf)
        likely: Tensor = logits > logits.max(dim=1, keepdim=True).values + math.log(self._action_flexibility)
        return likely


class MaskedDiscreteBCQ(DiscreteBCQ):  # type: ignore[misc]
    """`DiscreteBCQ` with the choice of `MaskedDiscreteBCQImpl`."""

    _impl: DiscreteBCQImpl

    def inner_create_impl(self, observation_shape: tuple[int, ...], action_size: int) -> None:
        """Make the networks."""
        super().inner_create_impl(observation_shape, action_size)
        made = self._impl
        self._impl = MaskedDiscreteBCQImpl(
            observation_shape=observation_shape,
            action_size=action_size,
            modules=made.modules,
            q_func_forwarder=made._q_func_forwarder,
            targ_q_func_forwarder=made._targ_q_func_forwarder,
            target_update_interval=self._config.target_update_interval,
            gamma=self._config.gamma,
            action_flexibility=self._config.action_flexibility,
            beta=self._config.beta,
            compiled=self.compiled,
            device=self._device,
        )


@dataclasses.dataclass()
class MaskedDiscreteBCQConfig(DiscreteBCQConfig):  # type: ignore[misc]
    """Configuration of `MaskedDiscreteBCQ`, field by field that of `DiscreteBCQ`."""

    def create(self, device: bool | int | str | None = False, enable_ddp: bool = False) -> MaskedDiscreteBCQ:
        """Make the algorithm, without networks."""
        return MaskedDiscreteBCQ(self, device, enable_ddp)

    @staticmethod
    def get_type() -> str:
        """Name under which d3rlpy stores it."""
        return "mtrouter_masked_discrete_bcq"
