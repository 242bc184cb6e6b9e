"""What is due: networks that read a conversation, turn by turn, and say which kind of action comes next."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mtrouter_rl.agents.factored.kinds import ActionKinds
from mtrouter_rl.agents.factored.stuck import Stuckness
from mtrouter_rl.agents.parameters import NetworkParameters
from mtrouter_rl.agents.q.networks import ConversationClassifier, HistoryLayout, StateDict
from mtrouter_rl.cards import RewardCard
from mtrouter_rl.embeddings.history_state import Float32Array
from mtrouter_rl.records import FloatArray, Frozen

if TYPE_CHECKING:
    from mtrouter_rl.embeddings.history import HistoryFeatures

ROWS_PER_PASS = 2048
"""Rows that networks read at once, to within one conversation."""


class FactoredSettings(Frozen):
    """Everything that makes a `FactoredRouter`, weights and prices apart.

    Attributes:
        layout: Of the history features.
        sizes: Of the networks that tell what is due.
        memory_size: Of the memory that they carry from turn to turn; 0 for none, as in routers that were saved before.
        kinds: Kinds of action.
        n_members: How many networks are averaged.
        reward: Weight and unit of the cost.
        prior: Prior probability of being stuck.
        together: How much of it all models have in common, in [0, 1]; routers that were saved before this was learned have 0.
        use_value: What one useful turn is worth, in units of utility.
    """

    layout: HistoryLayout
    sizes: NetworkParameters
    memory_size: Annotated[int, Field(ge=0)] = 0
    kinds: ActionKinds
    n_members: int
    reward: RewardCard
    prior: float
    together: float = 0.0
    use_value: float

    @property
    def stuckness(self) -> Stuckness:
        """How models get stuck."""
        return Stuckness.of(self.prior, self.together)

    def make_network(self) -> ConversationClassifier:
        """One network of this shape; torch's global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            return ConversationClassifier(
                self.layout, self.sizes, memory_size=self.memory_size, n_classes=len(self.kinds)
            )


class DueNetworks:
    """Networks of one shape, whose answers are averaged.

    Args:
        settings: Their shape.
        weights: Stacked weights, one leading axis for the networks: name -> tensor of shape (n_members, ...).
    """

    def __init__(self, settings: FactoredSettings, weights: StateDict) -> None:
        self.networks = []
        for member in range(settings.n_members):
            network = settings.make_network()
            network.load_state_dict({name: one[member] for name, one in weights.items()})
            self.networks.append(network.eval())
        self.no_memory = torch.zeros(settings.n_members, settings.memory_size)

    @torch.inference_mode()
    def follow(
        self, conversations: Sequence[Float32Array], memories: "Sequence[Tensor] | None" = None
    ) -> list[tuple[FloatArray, Tensor]]:
        """What is due before every turn of some conversations.

        Args:
            conversations: [history features, allowed bits] before each of T turns in a row, shape (T, D + M) each.
            memories: Of the turns before these, shape (n_members, memory_size) each; None where these are the first.

        Returns:
            For each the probability of every kind, shape (T, K), and the memory after each turn, shape
            (T, n_members, memory_size).
        """
        before = [self.no_memory] * len(conversations) if memories is None else list(memories)
        found = dict[int, tuple[FloatArray, Tensor]]()
        for some in _blocks([len(one) for one in conversations]):
            padded = pad_sequence([torch.from_numpy(conversations[one]) for one in some], batch_first=True)
            due, after = self._of_rows(padded, torch.stack([before[one] for one in some]))
            for row, one in enumerate(some):
                n_turns = len(conversations[one])
                found[one] = due[row, :n_turns], after[row, :n_turns]
        return [found[one] for one in range(len(conversations))]

    def _of_rows(self, rows: Tensor, before: Tensor) -> tuple[FloatArray, Tensor]:
        """Of C conversations of T turns: shapes (C, T, K) and (C, T, n_members, memory_size)."""
        outputs = [network(rows, before[:, member]) for member, network in enumerate(self.networks)]
        due = torch.stack([torch.softmax(logits, dim=-1) for logits, _ in outputs]).mean(dim=0)
        return due.double().numpy(), torch.stack([memory for _, memory in outputs], dim=2)


def _blocks(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of conversations that are read together: of like length, and not too many rows when short ones are padded."""
    block = list[int]()
    for one in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        if block and (len(block) + 1) * lengths[one] > ROWS_PER_PASS:
            yield block
            block = []
        block.append(one)
    if block:
        yield block


def hidden_from_due(
    features: "HistoryFeatures", names: Sequence[str], hidden: Sequence[str], *, n_models: int
) -> tuple[tuple[int, int], ...]:
    """Columns that the networks are not shown, so that an earlier state looks as it did then.

    Whatever models are allowed, and whatever money is left, the same is due.

    Args:
        features: Their blocks say where columns are.
        names: Of the columns of the block "scalars".
        hidden: Which of those are hidden.
        n_models: M; the allowed bits come after the features.
    """
    bits = ((features.dim, features.dim + n_models),)
    block = features.blocks.get("scalars")
    if block is None or block.stop - block.start != len(names):
        return bits
    columns = sorted(block.start + names.index(name) for name in hidden)
    return (*((column, column + 1) for column in columns), *bits)
