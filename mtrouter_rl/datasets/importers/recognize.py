"""Tells the format of a log by the names and the first objects of its files.

Every importer may say what its files look like: a class method `recognizes(sample)` that gives the reason in a few words,
or an empty text. Files are counted; the format of most of them is the answer.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from mtrouter_rl.datasets.importers.archives import ARCHIVE_SUFFIXES, LogFile, read_files
from mtrouter_rl.datasets.importers.base import ImportReport
from mtrouter_rl.datasets.importers.sample import WHOLE_BYTES, Sample, take_sample
from mtrouter_rl.errors import DatasetError, MTRouterError
from mtrouter_rl.registry import IMPORTERS

MAX_FILES = 60
"""Files of a folder or archive that are looked at."""
_ENOUGH = 12
"""So many recognized files decide."""
_GENERAL = ("openai-jsonl",)
"""Formats that win only where no other fits: their lines may hold any further keys."""
_MAX_SHOWN = 5

_log = logging.getLogger(__name__)

Recognizer = Callable[[Sample], str]


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """Format of a log.

    Attributes:
        format: Its name, as `mtrouter-rl import` takes it.
        why: What it was told by.
        others: Names of the other formats that some of the files look like.
        n_files: Files that look like it.
        n_unknown: Files that look like no format; tables of scores are among them.
    """

    format: str
    why: str
    others: tuple[str, ...] = ()
    n_files: int = 0
    n_unknown: int = 0


def recognize(paths: Sequence[Path]) -> Recognition:
    """Format of the log in some files, folders and archives.

    Raises:
        DatasetError: If a path does not exist, or no file looks like a known format; it lists what was seen and the formats.
    """
    found, reasons, unknown = _look(paths)
    if not found:
        seen = "; ".join(map(str, unknown[:_MAX_SHOWN])) or "no file at all"
        more = f"; {len(unknown) - _MAX_SHOWN} more" if len(unknown) > _MAX_SHOWN else ""
        raise DatasetError(
            f"the format of {', '.join(map(str, paths))} is not known. Seen: {seen}{more}. Known formats: "
            f"{', '.join(sorted(IMPORTERS.targets()))}; name one if the log is of it, or write its lines as openai-jsonl "
            "(docs/import-my-logs.md)"
        )
    best = max(found, key=lambda name: (name not in _GENERAL, found[name]))
    others = tuple(name for name, _ in found.most_common() if name != best)
    return Recognition(format=best, why=reasons[best], others=others, n_files=found[best], n_unknown=len(unknown))


def looks_like(paths: Sequence[Path], *, given: str) -> str:
    """What a log looks like where the format that was given does not fit; empty if nothing else is known of it."""
    try:
        found = recognize(paths)
    except MTRouterError:
        return ""
    if found.format == given:
        return ""
    return f"it looks like format '{found.format}' ({found.why}); try: mtrouter-rl import {found.format} ..."


def recognizers() -> dict[str, Recognizer]:
    """The test of every importer that has one, by format; a plug-in that cannot be loaded is passed over with a warning."""
    tests: dict[str, Recognizer] = {}
    for name in sorted(IMPORTERS.targets()):
        try:
            test = getattr(IMPORTERS.load(name), "recognizes", None)
        except MTRouterError as error:
            _log.warning("log format '%s' is left out: %s", name, error)
            continue
        if callable(test):
            tests[name] = test
    return tests


def _look(paths: Sequence[Path]) -> tuple[Counter[str], dict[str, str], list[Sample]]:
    """Number of files and first reason by format, and the files of no format."""
    tests = recognizers()
    found: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    unknown: list[Sample] = []
    for path in paths:
        n_here = 0
        for sample in _samples(path):
            fits = {name: why for name, test in tests.items() if (why := test(sample))}
            if len(fits) > 1:
                fits = {name: why for name, why in fits.items() if name not in _GENERAL}
            for name, why in fits.items():
                found[name] += 1
                reasons.setdefault(name, f"{sample.source}: {why}")
            if not fits:
                unknown.append(sample)
            n_here += bool(fits)
            if n_here == _ENOUGH:
                break
    return found, reasons, unknown


def _samples(path: Path) -> Iterator[Sample]:
    if path.is_dir():
        inner = (file for file in sorted(path.rglob("*")) if file.is_file() and not file.is_symlink())
        for file in islice(inner, MAX_FILES):
            yield from islice(_file_samples(file, shown=PurePosixPath(file.relative_to(path).as_posix())), MAX_FILES)
    else:
        yield from islice(_file_samples(path, shown=PurePosixPath(path.name)), MAX_FILES)


def _file_samples(path: Path, *, shown: PurePosixPath) -> Iterator[Sample]:
    """Samples of an archive's members, or of the beginning of a plain file, however large it is."""
    if path.name.lower().endswith((*ARCHIVE_SUFFIXES, ".gz", ".xz", ".bz2", ".zst")) or not path.is_file():
        for file in read_files(path, ImportReport(format="unknown")):
            yield take_sample(file)
        return
    with path.open("rb") as opened:
        data = opened.read(WHOLE_BYTES)
    yield take_sample(LogFile(source=str(shown), path=shown, data=data))
