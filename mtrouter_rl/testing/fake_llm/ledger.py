"""What the double has billed: one line of JSON for every request, written before the first byte of its reply."""

import json
import threading
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import TokenUsage

_KEPT = 100_000


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One request.

    Attributes:
        request_id: The client's own id of it, empty if it gave none.
        session: Session it belongs to, as the client named it; empty for none.
        turn: Turn of the conversation.
        n_try: How often this turn had been asked for before.
        model: Model that was asked.
        fault: What went wrong, empty for nothing.
        status: HTTP status of the reply; 0 for none.
        is_billed: Whether an answer was generated and costs money.
        usage: Billed tokens, all 0 if nothing was billed.
        cost_usd: Their price, USD.
    """

    request_id: str
    session: str
    turn: int
    n_try: int
    model: str
    fault: str
    status: int
    is_billed: bool
    usage: TokenUsage
    cost_usd: float

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Entry of a line of the file."""
        data = json.loads(line)
        return cls(**data | {"usage": TokenUsage(**data["usage"])})


class Ledger:
    """Entries in memory, the last hundred thousand, and in a file where one is given. May be used by several threads."""

    def __init__(self, path: Path | None = None) -> None:
        """Open it; a file that is there is gone on with.

        Raises:
            InvalidConfigError: If the file cannot be written.
        """
        self._lock = threading.Lock()
        self.entries: deque[LedgerEntry] = deque(maxlen=_KEPT)
        self.billed_usd = 0.0
        self.n_requests = 0
        try:
            self._file = None if path is None else path.open("a", encoding="utf-8")
        except OSError as error:
            raise InvalidConfigError(f"ledger {path} cannot be written: {error.strerror}; give another file") from error

    def add(self, entry: LedgerEntry) -> None:
        """Keep an entry."""
        with self._lock:
            self.n_requests += 1
            self.billed_usd += entry.cost_usd
            self.entries.append(entry)
            if self._file is not None:
                self._file.write(json.dumps(asdict(entry), separators=(",", ":")) + "\n")
                self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def read_ledger(path: Path) -> list[LedgerEntry]:
    """Entries of a file; a last line that is not whole is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [LedgerEntry.from_line(line) for line in lines if line.endswith("\n")]
