import json
import math

import pytest

from mtrouter_rl.envs.hle.search import Bm25, Document, LocalCorpus, SearchBackend, SearchCard, read_documents, words
from mtrouter_rl.errors import CardError, InvalidConfigError, UnknownNameError


def documents(*texts):
    return [Document(id=f"d{index}", title=f"T{index}", text=text) for index, text in enumerate(texts)]


def test_words_ignore_case_width_and_punctuation():
    assert words("Straße, ＡＢＣ-7!") == ["strasse", "abc", "7"]


def test_bm25_against_a_worked_example():
    texts = ["cat cat dog", "cat bird", "fish"]
    index = Bm25(texts, k1=1.2, b=0.75)
    mean = 2.0
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    first = idf * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / mean))
    second = idf * 1 * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2 / mean))
    assert index.rank("Cat", 5) == [(0, pytest.approx(first)), (1, pytest.approx(second))]
    assert index.rank("cat cat", 1)[0][1] == pytest.approx(2 * first)


def test_bm25_prefers_rare_words_and_keeps_the_order_of_ties():
    index = Bm25(["common rare", "common other", "common other"])
    assert [found for found, _ in index.rank("common rare", 3)] == [0, 1, 2]
    assert index.rank("absent", 3) == []
    assert Bm25([]).rank("word", 3) == []


def test_a_word_that_every_text_has_still_counts():
    assert all(score > 0 for _, score in Bm25(["a b", "a c"]).rank("a", 2))


def test_local_corpus():
    corpus = LocalCorpus(documents("iron melts at 1538 C", "tin melts at 232 C"), n_hits=1)
    assert isinstance(corpus, SearchBackend)
    hits = corpus.search("when does tin melt; tin?")
    assert [(hit.id, hit.title, hit.snippet) for hit in hits] == [("d1", "T1", "tin melts at 232 C")]
    assert corpus.open("d1") == "T1\ntin melts at 232 C"
    assert corpus.open("d7") is None


def test_documents_need_ids_of_their_own():
    with pytest.raises(InvalidConfigError, match=r"documents \['d0'\] appear more than once"):
        LocalCorpus(documents("a") + documents("b"))


def test_documents_of_a_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "iron.md").write_text("# Iron\n\nIt melts.", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    (tmp_path / "more.jsonl").write_text('{"id": "x", "title": "Tin", "text": "soft"}\n\n', encoding="utf-8")
    (tmp_path / "ignored.bin").write_bytes(b"\xff")
    assert [(one.id, one.title) for one in read_documents(tmp_path)] == [
        ("empty.txt", "empty"),
        ("x", "Tin"),
        ("sub/iron.md", "Iron"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, b"", r"holds no document; put .txt, .md or .jsonl files there"),
        ("a.txt", b"\xff\xfe", r"a.txt cannot be read as UTF-8 text"),
        ("a.jsonl", b'{"id": 1}', r"a.jsonl, line 1: KeyError\('title'\); every line must be"),
        ("a.jsonl", b"\n[1]", r"a.jsonl, line 2: TypeError"),
    ],
)
def test_broken_folders(tmp_path, name, content, message):
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidConfigError, match=message):
        read_documents(tmp_path)


def test_no_such_folder(tmp_path):
    with pytest.raises(InvalidConfigError, match=r"no such folder; name one in settings.search.options.folder"):
        read_documents(tmp_path / "nothing")


def my_backend(options):
    return LocalCorpus(documents(options["text"]))


def no_backend(options):
    return options


def test_backends_by_name_and_by_import_path(tmp_path, monkeypatch):
    monkeypatch.setenv("MTROUTER_RL_ALLOW_CODE", "1")
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "x", "title": "Tin", "text": "soft"}), encoding="utf-8")
    made = SearchCard(backend="corpus", options={"folder": str(tmp_path), "n_hits": 2}).make()
    assert [hit.id for hit in made.search("tin")] == ["x"]
    made = SearchCard(backend=f"{__name__}:my_backend", options={"text": "hello"}).make()
    assert [hit.id for hit in made.search("hello")] == ["d0"]


@pytest.mark.parametrize(
    ("backend", "options", "error", "message"),
    [
        ("corpos", {}, UnknownNameError, r"unknown search backend 'corpos'; did you mean 'corpus'\?"),
        ("corpus", {"dir": "x"}, CardError, r"settings.search.options of backend 'corpus'"),
        (f"{__name__}:no_backend", {}, CardError, r"made dict, which has no search and open"),
        ("no_such_module:make", {}, InvalidConfigError, r"cannot be imported"),
    ],
)
def test_backends_that_are_none(backend, options, error, message, monkeypatch):
    monkeypatch.setenv("MTROUTER_RL_ALLOW_CODE", "1")
    with pytest.raises(error, match=message):
        SearchCard(backend=backend, options=options).make()
