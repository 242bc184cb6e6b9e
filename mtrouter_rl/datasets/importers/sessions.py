"""Puts the calls of a log together to sessions, and makes an episode of each: the rules of every importer of calls."""

from collections.abc import Iterable, Iterator, Mapping

from mtrouter_rl.datasets.importers.base import ImportSource
from mtrouter_rl.datasets.importers.call_records import Record
from mtrouter_rl.datasets.importers.chat_importer import ChatOptions
from mtrouter_rl.records import Episode


class SessionOptions(ChatOptions):
    """Options of every importer of calls."""


class SessionAssembler:
    """Takes records in any order and gives episodes; see the seam's text in this module's docstring."""

    def __init__(
        self, source: ImportSource, options: SessionOptions, *, expected: Mapping[str, int] | None = None
    ) -> None:
        """Start without any session; `expected` says how often `take` will be called for a session, so that it can close."""
        raise NotImplementedError

    def take(self, *records: Record) -> list[Episode]:
        """Take records of one session; gives the episodes that are now whole."""
        raise NotImplementedError

    def finish(self) -> Iterator[Episode]:
        """Episodes of the sessions that are still open."""
        raise NotImplementedError


def assemble(records: Iterable[Record], source: ImportSource, options: SessionOptions) -> Iterator[Episode]:
    """Episodes of all records of a log."""
    assembler = SessionAssembler(source, options)
    for record in records:
        yield from assembler.take(record)
    yield from assembler.finish()
