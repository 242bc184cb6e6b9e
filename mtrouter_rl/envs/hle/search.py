"""Search and browse: the protocol of whoever finds and opens documents, and a local folder of documents ranked by BM25.

The web is searched only if the user brings a backend for it. The small ranking below is our own: the usual package,
`rank_bm25`, has not been maintained since 2022.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol, cast, runtime_checkable

from pydantic import Field, ValidationError

from mtrouter_rl.errors import CardError, InvalidConfigError
from mtrouter_rl.files import parse_json
from mtrouter_rl.records import Frozen
from mtrouter_rl.registry import SEARCH_BACKENDS

_WORD = re.compile(r"\w+")
_SNIPPET_CHARACTERS = 120


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document of a corpus.

    Attributes:
        id: What `browse` is given.
        title: One line.
        text: Its text.
    """

    id: str
    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A document that a search found.

    Attributes:
        id: What `browse` is given to open it.
        title: One line.
        snippet: Its beginning, or what matched.
    """

    id: str
    title: str
    snippet: str


@runtime_checkable
class SearchBackend(Protocol):
    """Whoever finds and opens documents."""

    def search(self, query: str) -> Sequence[Hit]:
        """Documents for a query, the best first; none is an answer too.

        Raises:
            SimulatorError: If the backend is broken; the episode is then failed and not scored.
        """

    def open(self, document_id: str) -> str | None:
        """Text of a document; None if there is no such document.

        Raises:
            SimulatorError: If the backend is broken.
        """


class CorpusOptions(Frozen):
    """Options of the backend "corpus".

    Attributes:
        folder: Folder with `.txt`, `.md` and `.jsonl` files (one `{"id", "title", "text"}` a line), looked through recursively.
        n_hits: Hits of a search.
    """

    folder: str
    n_hits: Annotated[int, Field(ge=1)] = 5


class SearchCard(Frozen):
    """Who searches, in an environment card.

    Attributes:
        backend: Registered name, or, where the user allows code, "module:function" of a function that takes the options and
            gives a `SearchBackend`.
        options: Checked by the backend.
    """

    backend: str
    options: dict[str, object] = Field(default_factory=dict)

    def make(self) -> SearchBackend:
        """Make the backend.

        Raises:
            UnknownNameError: If no such backend is registered.
            InvalidConfigError: If it cannot be imported, or is code and the user does not allow that.
            CardError: If the options are wrong, or what is made is no search backend.
        """
        make = cast(Callable[[Mapping[str, object]], object], SEARCH_BACKENDS.load(self.backend))
        made = make(self.options)
        if not isinstance(made, SearchBackend):
            raise CardError(
                f"settings.search.backend '{self.backend}' made {type(made).__name__}, which has no search and open"
            )
        return made


def make_corpus(options: Mapping[str, object]) -> "LocalCorpus":
    """Local corpus of a folder.

    Raises:
        CardError: If the options are wrong.
        InvalidConfigError: If the folder or one of its files is.
    """
    try:
        card = CorpusOptions.model_validate(options)
    except ValidationError as error:
        raise CardError(f"settings.search.options of backend 'corpus': {error}") from error
    return LocalCorpus(read_documents(Path(card.folder)), n_hits=card.n_hits)


def read_documents(folder: Path) -> tuple[Document, ...]:
    """Every document of a folder; the id of a text file is its path within the folder.

    Raises:
        InvalidConfigError: If there is no such folder, it holds no document, or a line or file cannot be read.
    """
    if not folder.is_dir():
        raise InvalidConfigError(f"corpus folder {folder}: no such folder; name one in settings.search.options.folder")
    documents: list[Document] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".txt", ".md"):
            text = _read_text(path)
            title = text.strip().partition("\n")[0].lstrip("# ").strip() or path.stem
            documents.append(Document(id=path.relative_to(folder).as_posix(), title=title, text=text))
        elif path.suffix == ".jsonl":
            documents += _read_lines(path)
    if not documents:
        raise InvalidConfigError(f"corpus folder {folder} holds no document; put .txt, .md or .jsonl files there")
    return tuple(documents)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfigError(
            f"document {path} cannot be read as UTF-8 text: {error}; convert or remove it"
        ) from error


def _read_lines(path: Path) -> Iterable[Document]:
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = cast("dict[str, object]", parse_json(line))
            yield Document(id=str(row["id"]), title=str(row["title"]), text=str(row["text"]))
        except (ValueError, LookupError, TypeError) as error:
            raise InvalidConfigError(
                f'documents {path}, line {number}: {error!r}; every line must be {{"id": ..., "title": ..., "text": ...}}'
            ) from error


def words(text: str) -> list[str]:
    """Words of a text for matching, without case.

    Example:
        >>> words("Heat-capacity, of VELMARIN")
        ['heat', 'capacity', 'of', 'velmarin']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


class Bm25:
    """Okapi BM25 over a fixed list of texts.

    score(d, q) = sum over words w of q of idf(w) * f (k1 + 1) / (f + k1 (1 - b + b |d| / mean |d|)), where f counts w in d, and
    idf(w) = ln(1 + (N - n + 0.5) / (n + 0.5)), which stays above 0 for words that most texts have.

    Source: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond (2009), with the 1 + inside the
    logarithm that Lucene uses.
    """

    def __init__(self, texts: Sequence[str], *, k1: float = 1.2, b: float = 0.75) -> None:
        """Index the texts."""
        counts = [Counter(words(text)) for text in texts]
        lengths = [sum(count.values()) for count in counts]
        mean_length = max(sum(lengths) / len(lengths), 1.0) if lengths else 1.0
        postings: dict[str, list[tuple[int, float]]] = {}
        for index, count in enumerate(counts):
            norm = k1 * (1 - b + b * lengths[index] / mean_length)
            for word, n in count.items():
                postings.setdefault(word, []).append((index, n * (k1 + 1) / (n + norm)))
        self._postings = postings
        self._n_texts = len(texts)

    def rank(self, query: str, n_best: int) -> list[tuple[int, float]]:
        """Index and score of the best texts that share a word with the query; ties in the order of the texts."""
        scores: dict[int, float] = {}
        for word in words(query):
            found = self._postings.get(word, [])
            idf = math.log(1 + (self._n_texts - len(found) + 0.5) / (len(found) + 0.5))
            for index, weight in found:
                scores[index] = scores.get(index, 0.0) + idf * weight
        return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:n_best]


class LocalCorpus:
    """A `SearchBackend` over documents in memory."""

    def __init__(self, documents: Sequence[Document], *, n_hits: int = 5) -> None:
        """Index the documents.

        Raises:
            InvalidConfigError: If two documents have one id.
        """
        self._by_id = {document.id: document for document in documents}
        if len(self._by_id) != len(documents):
            ids = [document.id for document in documents]
            repeated = sorted({one for one in ids if ids.count(one) > 1})
            raise InvalidConfigError(f"documents {repeated[:5]} appear more than once; every document needs its own id")
        self._documents = tuple(documents)
        self._index = Bm25([f"{document.title}\n{document.text}" for document in documents])
        self._n_hits = n_hits

    def search(self, query: str) -> tuple[Hit, ...]:
        """The best documents by BM25."""
        best = [self._documents[index] for index, _ in self._index.rank(query, self._n_hits)]
        return tuple(
            Hit(id=one.id, title=one.title, snippet=" ".join(one.text.split())[:_SNIPPET_CHARACTERS]) for one in best
        )

    def open(self, document_id: str) -> str | None:
        """Text of a document under its title; None if there is no such document."""
        document = self._by_id.get(document_id)
        return None if document is None else f"{document.title}\n{document.text}"
