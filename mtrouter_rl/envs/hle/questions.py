"""Questions from a file in the published schema of Humanity's Last Exam (the gated data set `cais/hle`): Parquet or JSONL.

Nothing of the data set is shipped. Whoever has been granted access names the file in the environment card.
Source: Phan et al., Humanity's Last Exam (2025), and the data card of `cais/hle`.
"""

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mtrouter_rl.errors import InvalidConfigError, unknown_name
from mtrouter_rl.files import parse_json

logger = logging.getLogger(__name__)

AnswerType = Literal["exactMatch", "multipleChoice"]

TRAIN_CATEGORIES = ("Math", "Computer Science/AI", "Physics", "Biology/Medicine", "Chemistry", "Engineering")
OOD_CATEGORIES = ("Humanities/Social Science", "Other")
CATEGORIES = (*TRAIN_CATEGORIES, *OOD_CATEGORIES)

_REQUIRED = ("id", "question", "image", "answer", "answer_type", "category")
_FILLED = ("id", "question", "answer", "answer_type", "category")
_OPTIONAL = ("image_preview", "author_name", "rationale", "rationale_image", "raw_subject", "canary")
_OPTION = re.compile(r"^\s*\(?([A-Z])[.):]\s*(\S.*?)\s*$", re.MULTILINE)


def task_name(category: str) -> str:
    """Name of a category as a task.

    Example:
        >>> task_name("Computer Science/AI")
        'computer-science-ai'
    """
    return re.sub(r"[^a-z0-9]+", "-", category.lower()).strip("-")


TASK_NAMES = tuple(task_name(category) for category in CATEGORIES)


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question.

    Attributes:
        id: Unique in its file.
        text: What is asked; the options of a multiple choice are part of it.
        answer: The right answer; a letter for a multiple choice.
        answer_type: How an answer is compared.
        category: One of `CATEGORIES`.
    """

    id: str
    text: str
    answer: str
    answer_type: AnswerType
    category: str

    @property
    def options(self) -> dict[str, str]:
        """Letter -> text of the options that the question lists."""
        return dict(_OPTION.findall(self.text))


@dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """The questions of a file, text only.

    Attributes:
        by_task: Task name -> its questions, sorted by id; a variation is an index into them.
        n_with_image: Rows that were left out because they show an image.
        fingerprint: SHA-256 of the file, hexadecimal.
    """

    by_task: Mapping[str, tuple[Question, ...]]
    n_with_image: int
    fingerprint: str


def read_questions(path: Path, *, images: Literal["skip", "refuse"] = "skip") -> QuestionSet:
    """Read and check a question file.

    Args:
        path: A `.parquet` or `.jsonl` file in the published schema.
        images: Whether questions with an image are left out and counted, or are an error.

    Raises:
        InvalidConfigError: If the file is missing or breaks the schema; names file, row, column and value.
    """
    if not path.is_file():
        raise InvalidConfigError(
            f"question file {path}: no such file; the data set cais/hle is gated, so bring your own copy (Parquet or JSONL) "
            "and name it in settings.questions"
        )
    questions: dict[str, Question] = {}
    n_with_image = 0
    for number, row in _rows(path):
        where = f"question file {path}, row {number}"
        question = _question(row, where)
        if question.id in questions:
            raise InvalidConfigError(
                f"{where}: id '{question.id}' appears more than once; every question needs its own"
            )
        if row["image"]:
            n_with_image += 1
            if images == "refuse":
                raise InvalidConfigError(
                    f"{where}: column 'image' is not empty and settings.images is 'refuse'; remove the row, or set "
                    "images to 'skip'"
                )
            continue
        questions[question.id] = question
    if not questions:
        raise InvalidConfigError(
            f"question file {path} holds no question without an image; give a file with text questions"
        )
    if n_with_image:
        logger.info(
            "%s: %d question(s) with an image left out, %d text questions kept", path, n_with_image, len(questions)
        )
    return QuestionSet(by_task=_by_task(questions), n_with_image=n_with_image, fingerprint=fingerprint(path))


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _by_task(questions: Mapping[str, Question]) -> dict[str, tuple[Question, ...]]:
    ordered = [questions[key] for key in sorted(questions)]
    by_task = {
        task_name(category): tuple(question for question in ordered if question.category == category)
        for category in CATEGORIES
    }
    return {task: chosen for task, chosen in by_task.items() if chosen}


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Number (from 1) and columns of every row, with the columns checked."""
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
    elif path.suffix == ".jsonl":
        yield from _jsonl_rows(path)
    else:
        raise InvalidConfigError(f"question file {path}: suffix is '{path.suffix}', must be .parquet or .jsonl")


def _check_columns(columns: set[str], where: str) -> None:
    missing = [column for column in _REQUIRED if column not in columns]
    extra = sorted(columns - {*_REQUIRED, *_OPTIONAL})
    if missing or extra:
        raise InvalidConfigError(
            f"{where}: column(s) missing: {', '.join(missing) or 'none'}; unknown: {', '.join(extra) or 'none'}; the schema "
            f"of cais/hle has {', '.join(_REQUIRED)} and, optionally, {', '.join(_OPTIONAL)}"
        )


def _parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        _check_columns(set(file.schema_arrow.names), f"question file {path}")
        number = 0
        for batch in file.iter_batches(columns=list(_REQUIRED)):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, OSError) as error:
        raise InvalidConfigError(f"question file {path} is no readable Parquet: {error}; download it again") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"question file {path}, row {number}"
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as error:
                raise InvalidConfigError(f"{where}: no JSON ({error}); write one object a line") from error
            if not isinstance(row, dict):
                raise InvalidConfigError(f"{where}: holds {type(row).__name__}, must be an object of columns")
            _check_columns(set(row), where)
            yield number, row


def _question(row: Mapping[str, object], where: str) -> Question:
    for column in _FILLED:
        value = row[column]
        if not isinstance(value, str) or not value.strip():
            raise InvalidConfigError(f"{where}: column '{column}' is {value!r}, must be a text that is not empty")
    if row["answer_type"] not in ("exactMatch", "multipleChoice"):
        raise InvalidConfigError(
            f"{where}: column 'answer_type' is {row['answer_type']!r}, must be 'exactMatch' or 'multipleChoice'"
        )
    if row["category"] not in CATEGORIES:
        raise InvalidConfigError(
            f"{where}: column 'category': {unknown_name('category', str(row['category']), CATEGORIES)}"
        )
    return Question(
        id=str(row["id"]),
        text=str(row["question"]),
        answer=str(row["answer"]).strip(),
        answer_type=row["answer_type"],
        category=str(row["category"]),
    )
