"""A Gymnasium space for any text: `gymnasium.spaces.Text` takes a fixed character set, environments print what they like."""

from typing import Any

import numpy as np
from gymnasium.spaces import Space


class Unicode(Space[str]):
    """All strings of at most `max_length` characters.

    Samples are short strings of printable ASCII and a few other characters; they exist so that code that samples spaces
    works, not because such texts occur.
    """

    def __init__(self, max_length: int = 1_000_000, seed: int | np.random.Generator | None = None) -> None:
        """Create the space.

        Args:
            max_length: Longest string that belongs to the space, in characters.
            seed: Seed of `sample`.

        Raises:
            ValueError: If max_length is below 1, as Gymnasium's own spaces do.
        """
        if max_length < 1:
            raise ValueError(f"max_length is {max_length}, must be at least 1")
        self.max_length = max_length
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """A text has no flat array form; an encoder gives it one."""
        return False

    def sample(self, mask: object = None) -> str:
        """A random short string. `mask` is accepted for the interface and has no meaning here."""
        alphabet = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?0123456789äöüßéñ中文λ→"
        length = int(self.np_random.integers(0, min(24, self.max_length) + 1))
        return "".join(alphabet[i] for i in self.np_random.integers(0, len(alphabet), size=length))

    def contains(self, x: Any) -> bool:  # noqa: ANN401 - the signature is Gymnasium's
        """Whether x is a string that is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __repr__(self) -> str:
        return f"Unicode(max_length={self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unicode) and other.max_length == self.max_length

    def __hash__(self) -> int:
        return hash(("Unicode", self.max_length))
