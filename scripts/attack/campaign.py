"""Attacks the commands of this package and counts what came of it: kills, races, full and read-only disks, fuzzed inputs.

    .venv/bin/python scripts/attack/campaign.py [--points 20] [--pairs 20] [--inputs 10000] [--seconds 900] [--seed 0]

Every attack runs in a forked process with a folder of its own. What counts as a failure: a traceback, a result that differs
from that of an undisturbed run, a log that was changed and is read as if it were not, and an input that takes longer than its
limit.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import types
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from mtrouter_rl.agents.loading import load_router
from mtrouter_rl.agents.resolve import make_features
from mtrouter_rl.cards import find_card, load_agent_card, load_env_card, load_pool_card
from mtrouter_rl.cli import main
from mtrouter_rl.datasets.check_dataset import load_sound
from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.envs.hle.llm_judge import EndpointJudgeCard, LlmJudge
from mtrouter_rl.envs.hle.questions import Question
from mtrouter_rl.errors import MTRouterError
from mtrouter_rl.evaluation.results import Results

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
NEEDS_SPACE = {"os.mkdir", "os.link"}
INPUT_S = 10.0
KILLED = 77
TIMES = ("report.html", "training.json", "config.json")
"""Files that hold times or paths, which differ from run to run; that they are there is compared, not what is in them."""


@dataclass
class Count:
    """What came of one kind of attack."""

    name: str
    n: int = 0
    n_tracebacks: int = 0
    n_silent: int = 0
    n_differing: int = 0
    n_slow: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.n_tracebacks or self.n_silent or self.n_differing or self.n_slow)

    def row(self) -> str:
        return (
            f"| {self.name} | {self.n} | {self.n_tracebacks} | {self.n_silent} | {self.n_differing} | {self.n_slow} |"
        )


@dataclass(frozen=True)
class Writer:
    """A command that writes, as words with the placeholders LOG, ROWS, ROUTER, RUN and OUT."""

    name: str
    words: tuple[str, ...]
    has_old: bool = False
    """Whether something lies there that the command replaces."""


WRITERS = (
    Writer("import", ("import", "openai-jsonl", "ROWS", "--pool", "corridor-three", "--out", "OUT", "--quiet")),
    Writer(
        "import --overwrite",
        ("import", "openai-jsonl", "ROWS", "--pool", "corridor-three", "--out", "OUT", "--overwrite", "--quiet"),
        has_old=True,
    ),
    Writer("split", ("split", "LOG", "--by", "variation", "--out", "OUT")),
    Writer("split --overwrite", ("split", "LOG", "--by", "variation", "--out", "OUT", "--overwrite"), has_old=True),
    Writer("reprice", ("reprice", "LOG", "--pool", "corridor-three", "--out", "OUT")),
    Writer("export", ("export", "jsonl", "LOG", "--out", "OUT")),
    Writer("validate --upgrade", ("validate", "LOG", "--upgrade", "OUT")),
    Writer("new-env", ("new-env", "my_attacked_maze", "--out", "OUT")),
    Writer("new-pool", ("new-pool", "ROWS", "--format", "openai-jsonl", "--out", "OUT", "--quiet")),
    Writer(
        "collect",
        ("collect", "--env", "corridor", "--policy", "uniform", "--episodes", "60", "--workers", "1", "--out", "OUT"),
    ),
    Writer("train", ("train", "--agent", "task-table", "--dataset", "LOG", "--workers", "1", "--out", "OUT")),
    Writer("ope", ("ope", "uniform", "--dataset", "LOG", "--estimators", "wis", "--out", "OUT", "--quiet")),
    Writer("report", ("report", "LOG", "--out", "OUT")),
    Writer(
        "start", ("start", "ROWS", "--format", "openai-jsonl", "--pool", "corridor-three", "--out", "OUT", "--quiet")
    ),
    Writer(
        "evaluate",
        ("evaluate", "--env", "corridor", "--router", "random", "--per-task", "1", "--workers", "1", "--out", "OUT"),
    ),
    Writer(
        "study",
        (
            *("study", "--env", "corridor", "--episodes", "20", "--test-seeds", "1", "--agents", "task-table"),
            *("--workers", "1", "--out", "OUT", "--quiet"),
        ),
    ),
)


class Base:
    """A log, rows to import, and a router, made once; every attack gets copies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log, self.rows, self.router, self.results = (
            folder / name for name in ("log", "rows.jsonl", "router", "run")
        )
        words = ("--env", "corridor", "--workers", "1", "--quiet")
        assert main(["collect", *words, "--policy", "uniform", "--episodes", "30", "--out", str(self.log)]) == 0
        assert (
            main(
                [
                    "train",
                    "--agent",
                    "task-table",
                    "--dataset",
                    str(self.log),
                    "--workers",
                    "1",
                    "--out",
                    str(self.router),
                    "--quiet",
                ]
            )
            == 0
        )
        assert main(["evaluate", *words, "--router", "random", "--per-task", "1", "--out", str(self.results)]) == 0
        self.rows.write_text("".join(json.dumps(row) + "\n" for row in self._rows()), encoding="utf-8")

    def _rows(self) -> Iterator[dict[str, object]]:
        for session in range(24):
            yield {
                "session_id": f"s{session}",
                "model": ("small", "middle", "large")[session % 3],
                "messages": [{"role": "user", "content": f"question {session}"}],
                "response": f"answer {session}",
                "usage": {"prompt_tokens": 10 + session, "completion_tokens": 5},
                "score": session % 2,
            }

    def words(self, writer: Writer, out: Path) -> list[str]:
        places = {"LOG": self.log, "ROWS": self.rows, "ROUTER": self.router, "RUN": self.results, "OUT": out}
        return [str(places.get(word, word)) for word in writer.words]


def contents(path: Path) -> dict[str, bytes]:
    """Every file below a path, by its name there; what holds times, as a name alone."""
    if path.is_file():
        return {"": b"" if path.suffix == ".html" else path.read_bytes()}
    found = {}
    for file in sorted(path.rglob("*")) if path.is_dir() else ():
        name = file.relative_to(path).as_posix()
        if file.is_file() and not name.startswith("embeddings/") and "tfevents" not in name:
            is_free = file.name in TIMES or file.suffix in (".png", ".html")
            found[name] = b"" if is_free else file.read_bytes()
    return found


def forked(act: Callable[[], int]) -> tuple[int, str]:
    """Run something in a process of its own: its exit status, and what it wrote to stderr."""
    with tempfile.TemporaryFile() as told:
        child = os.fork()
        if child == 0:
            status = 99
            try:
                os.dup2(told.fileno(), 2)
                sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
                status = act()
                sys.stderr.flush()
            except BaseException:
                import traceback

                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
        _, raw = os.waitpid(child, 0)
        told.seek(0)
        return os.waitstatus_to_exitcode(raw), told.read().decode(errors="replace")


class Saboteur:
    """Counts the changes of files below a folder, and at one of them does something."""

    def __init__(self, folder: Path, at: int, strike: Callable[[str], None]) -> None:
        self.n, self.at, self._folder, self._strike = 0, at, str(folder), strike
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[object, ...]) -> None:
        is_change = event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES)
        if (
            is_change
            and isinstance(arguments[0], str | os.PathLike)
            and os.fspath(arguments[0]).startswith(self._folder)
        ):
            self.n += 1
            if self.n >= self.at:
                self._strike(event)


def points(n_operations: int, n_points: int) -> list[int]:
    """Operations at which to strike: all of them if they are few, else spread out evenly."""
    if n_operations <= n_points:
        return list(range(1, n_operations + 1))
    return sorted({1 + round(i * (n_operations - 1) / (n_points - 1)) for i in range(n_points)})


class Campaign:
    """All attacks, within a time limit."""

    def __init__(self, base: Base, scratch: Path, *, seconds: float, seed: int) -> None:
        self.base, self.scratch, self.rng = base, scratch, random.Random(seed)
        self.deadline = time.monotonic() + seconds
        self.counts: list[Count] = []
        self._number = 0

    def is_over(self) -> bool:
        return time.monotonic() > self.deadline

    def place(self, writer: Writer) -> Path:
        """A new place to write to, with an older result in it where the command replaces one."""
        self._number += 1
        folder = self.scratch / f"a{self._number}"
        folder.mkdir(parents=True)
        if writer.has_old:
            shutil.copytree(self._old(writer), folder / "out")
        return folder / "out"

    def _old(self, writer: Writer) -> Path:
        old = self.scratch / f"old-{writer.words[0]}"
        if not old.exists():
            changed = ("--seed", "5") if writer.words[0] == "split" else ("--id", "older-v1")
            words = [word for word in self.base.words(writer, old) if word != "--overwrite"]
            assert forked(lambda: main([*words, *changed]))[0] == 0
        return old

    def reference(self, writer: Writer) -> tuple[dict[str, bytes], int]:
        """What an undisturbed run leaves, and how many operations it takes."""
        out = self.place(writer)
        counted = self.scratch / "n"

        def act() -> int:
            saboteur = Saboteur(out.parent, sys.maxsize, lambda event: None)
            status = main(self.base.words(writer, out))
            n = saboteur.n
            counted.write_text(str(n))
            return status

        status, told = forked(act)
        assert status == 0, f"{writer.name}: {told}"
        return contents(out), int(counted.read_text())

    def finish(
        self, count: Count, writer: Writer, out: Path, expected: dict[str, bytes], before: dict[str, bytes]
    ) -> None:
        """After an attack: nothing is lost, and the same command, run again, gives what an undisturbed run gives."""
        there = contents(out)
        if writer.has_old and there not in (before, expected):
            count.n_differing += 1
            count.notes.append(f"{writer.name}: after the attack there is neither the old nor the new")
        status, told = forked(lambda: main(self.base.words(writer, out)))
        if "Traceback" in told:
            count.n_tracebacks += 1
            count.notes.append(f"{writer.name}: {told[-300:]}")
        if contents(out) != expected:
            count.n_differing += 1
            found = contents(out)
            names = [name for name in {*found, *expected} if found.get(name) != expected.get(name)]
            count.notes.append(f"{writer.name}: run again: status {status}, another result in {names}; {told[-200:]}")
        left = [path.name for path in out.parent.iterdir() if path != out and path.name != "embeddings"]
        if left:
            count.n_differing += 1
            count.notes.append(f"{writer.name}: left behind: {left}")

    def struck(
        self, name: str, strike: Callable[[str], None], *, n_points: int, writers: tuple[Writer, ...] = WRITERS
    ) -> None:
        """One kind of strike at many operations of every command."""
        for writer in writers:
            count = Count(f"{name}: {writer.name}")
            self.counts.append(count)
            expected, n_operations = self.reference(writer)
            for at in points(n_operations, n_points):
                if self.is_over():
                    return
                out = self.place(writer)
                before = contents(out)

                def act(out: Path = out, at: int = at, writer: Writer = writer) -> int:
                    Saboteur(out.parent, at, strike)
                    return main(self.base.words(writer, out))

                _, told = forked(act)
                count.n += 1
                if "Traceback" in told:
                    count.n_tracebacks += 1
                    count.notes.append(f"{writer.name} at {at}: {told[-300:]}")
                self.finish(count, writer, out, expected, before)
                shutil.rmtree(out.parent)

    def kills(self, n_points: int, writers: tuple[Writer, ...] = WRITERS) -> None:
        self.struck("kill", lambda event: os._exit(KILLED), n_points=n_points, writers=writers)

    def disks(self, n_points: int, writers: tuple[Writer, ...] = WRITERS) -> None:
        def full(event: str) -> None:
            if event in NEEDS_SPACE or event == "open":
                raise OSError(28, "No space left on device")

        def read_only(event: str) -> None:
            raise OSError(30, "Read-only file system")

        self.struck("full disk", full, n_points=n_points, writers=writers)
        self.struck("read-only disk", read_only, n_points=min(n_points, 3), writers=writers)

    def races(self, n_pairs: int, writers: tuple[Writer, ...] = WRITERS) -> None:
        """Two of the same command on one place, started within moments of each other."""
        for writer in writers:
            count = Count(f"race: {writer.name}")
            self.counts.append(count)
            expected, _ = self.reference(writer)
            for _ in range(n_pairs):
                if self.is_over():
                    return
                out = self.place(writer)
                files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
                children = []
                for told in files:
                    delay = self.rng.random() * 0.1
                    child = os.fork()
                    if child == 0:
                        os.dup2(told.fileno(), 2)
                        sys.stderr, sys.stdout = open(2, "w", closefd=False), open(os.devnull, "w")  # noqa: SIM115, PTH123
                        time.sleep(delay)
                        status = 99
                        with contextlib.suppress(BaseException):
                            status = main(self.base.words(writer, out))
                        sys.stderr.flush()
                        os._exit(status)
                    children.append(child)
                statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
                texts = []
                for told in files:
                    told.seek(0)
                    texts.append(told.read().decode(errors="replace"))
                    told.close()
                count.n += 1
                count.n_tracebacks += any("Traceback" in text for text in texts) or 99 in statuses
                left = [path.name for path in out.parent.iterdir() if path != out and path.name != "embeddings"]
                if contents(out) != expected or 0 not in statuses or left:
                    count.n_differing += 1
                    count.notes.append(f"{writer.name}: statuses {statuses}, left {left}: {texts}"[:400])
                shutil.rmtree(out.parent)

    def fuzz(self, n_inputs: int) -> None:
        """Changed datasets, cards, routers, results, archives and replies."""
        kinds = (self._datasets, self._cards, self._routers, self._results, self._archives, self._replies)
        shares = (0.15, 0.3, 0.1, 0.15, 0.1, 0.2)
        for kind, share in zip(kinds, shares, strict=True):
            count = Count(f"fuzz: {kind.__name__.strip('_')}")
            self.counts.append(count)
            for attack in kind():
                if count.n >= share * n_inputs or self.is_over():
                    break
                count.n += 1
                self._try(count, attack)

    def _try(self, count: Count, attack: Callable[[], bool]) -> None:
        """Run an attack: it may be refused with an error of ours; True says that a change went unseen."""
        start = time.process_time()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                is_silent = attack()
        except MTRouterError:
            is_silent = False
        except Exception as error:
            import traceback

            count.n_tracebacks += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            count.notes.append(
                f"{count.name}: {type(error).__name__}: {error} at {where.filename}:{where.lineno}"[:300]
            )
            return
        count.n_silent += is_silent
        if time.process_time() - start > INPUT_S:
            count.n_slow += 1

    def _datasets(self) -> Iterator[Callable[[], bool]]:
        out = self.scratch / "fuzzed"
        shutil.copytree(self.base.log, out)
        original = load_sound(out)
        files = sorted(out.iterdir())
        while True:
            path = self.rng.choice(files)
            data = path.read_bytes()
            changed = mutate_json(self.rng, data) if path.suffix == ".json" else flip(self.rng, data)

            def attack(path: Path = path, data: bytes = data, changed: bytes = changed) -> bool:
                path.write_bytes(changed)
                try:
                    return path.suffix == ".parquet" and changed != data and load_sound(out) != original
                finally:
                    path.write_bytes(data)

            yield attack

    def _cards(self) -> Iterator[Callable[[], bool]]:
        path = self.scratch / "card.yaml"
        cards = {
            find_card("envs", "corridor").read_bytes(): load_env_card,
            find_card("envs", "hle").read_bytes(): load_env_card,
            find_card("pools", "corridor-three").read_bytes(): load_pool_card,
            find_card("agents", "task-table").read_bytes(): load_agent_card,
        }
        bombs = [bomb.encode() for bomb in yaml_bombs()]
        while True:
            text, load = self.rng.choice(list(cards.items()))
            changed = self.rng.choice(bombs) if self.rng.random() < 0.02 else mutate_text(self.rng, text)

            def attack(changed: bytes = changed, load: Callable[..., object] = load) -> bool:
                path.write_bytes(changed)
                load(path)
                return False

            yield attack

    def _routers(self) -> Iterator[Callable[[], bool]]:
        pool = load_pool_card("corridor-three")
        out = self.scratch / "router"
        shutil.copytree(self.base.router, out)
        files = [out / name for name in ("router.json", "weights.safetensors", "deployment.json")]
        while True:
            path = self.rng.choice(files)
            data = path.read_bytes()
            changed = mutate_json(self.rng, data) if path.suffix == ".json" else flip(self.rng, data)

            def attack(path: Path = path, data: bytes = data, changed: bytes = changed) -> bool:
                from mtrouter_rl.agents.deployment import load_deployment

                path.write_bytes(changed)
                try:
                    load_router(out, pool=pool, make_features=lambda config: make_features(config, pool, None))
                    load_deployment(out)
                finally:
                    path.write_bytes(data)
                return False

            yield attack

    def _results(self) -> Iterator[Callable[[], bool]]:
        data = (self.base.results / "results.json").read_bytes()
        path = self.scratch / "results.json"
        while True:
            changed = mutate_json(self.rng, data)

            def attack(changed: bytes = changed) -> bool:
                path.write_bytes(changed)
                Results.load(path)
                return False

            yield attack

    def _archives(self) -> Iterator[Callable[[], bool]]:
        pool = load_pool_card("corridor-three")
        rows = self.base.rows.read_bytes()
        packed = {".tar.gz": tar_of(rows), ".zip": zip_of(rows), ".jsonl": rows}
        while True:
            suffix, data = self.rng.choice(list(packed.items()))
            changed = mutate_text(self.rng, data) if suffix == ".jsonl" else flip(self.rng, data)

            def attack(suffix: str = suffix, changed: bytes = changed) -> bool:
                path, out = self.scratch / f"rows{suffix}", self.scratch / "imported"
                path.write_bytes(changed)
                shutil.rmtree(out, ignore_errors=True)
                import_log(ImportRequest(format="openai-jsonl", paths=(path,), pool=pool, out=out), show_progress=False)
                return False

            yield attack

    def _replies(self) -> Iterator[Callable[[], bool]]:
        card = EndpointJudgeCard(
            base_url="http://127.0.0.1:9", model="m", input_usd=1, output_usd=1, retries=0, backoff_s=0
        )
        question = Question(id="q", text="?", answer="42", answer_type="exactMatch", category="Math")
        good = json.dumps(
            {
                "choices": [{"message": {"content": "correct: yes"}}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 4},
            }
        ).encode()
        reply = types.SimpleNamespace(status=200, reason="OK", getheader=lambda _, default="": default)
        while True:
            changed = mutate_json(self.rng, good)

            def attack(changed: bytes = changed) -> bool:
                judge = LlmJudge(card)
                import mtrouter_rl.pools.endpoint as endpoint

                def send(call: object, *_: object) -> None:
                    vars(call).update(response=reply, body=bytearray(changed))

                kept = endpoint._Call.send
                endpoint._Call.send = send
                try:
                    judge.judge(question, "42")
                finally:
                    endpoint._Call.send = kept
                return False

            yield attack


ODD = (
    "null",
    "true",
    "-1",
    "1e999",
    "NaN",
    "9" * 5000,
    "[" * 20_000,
    '{"a":' * 300 + "1" + "}" * 300,
    '"\\ud800"',
    '"\\u001b[2J"',
    "[]",
    "{}",
    '""',
)


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    """JSON with a value replaced, a key twice, a piece cut off, or bytes changed."""
    text = data.decode()
    kind = rng.random()
    if kind < 0.2:
        return flip(rng, data)
    if kind < 0.3:
        return data[: rng.randrange(len(data))]
    colons = [i for i, character in enumerate(text) if character == ":"]
    at = rng.choice(colons) + 1
    end = min((i for i in (text.find(mark, at) for mark in ",}\n") if i > 0), default=len(text))
    if kind < 0.4:
        start = text.rfind('"', 0, text.rfind('"', 0, at - 1))
        return (text[:at] + text[at:end] + "," + text[start:at] + text[at:end] + text[end:]).encode()
    return (text[:at] + rng.choice(ODD) + text[end:]).encode(errors="surrogatepass")


def mutate_text(rng: random.Random, data: bytes) -> bytes:
    """Text with bytes changed, a line twice, a line gone, or a value replaced."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    kind = rng.random()
    if kind < 0.25:
        return flip(rng, data)
    if kind < 0.5:
        lines.insert(at, lines[at])
    elif kind < 0.7:
        del lines[at]
    else:
        key, sign, _ = lines[at].partition(b":")
        lines[at] = key + sign + b" " + rng.choice(ODD).encode(errors="surrogatepass")
    return b"\n".join(lines)


def flip(rng: random.Random, data: bytes) -> bytes:
    """One to eight bytes changed."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def yaml_bombs() -> list[str]:
    """Small cards that grow."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    merges = ["a0: &a0 {k: 1}"] + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 10)]
    return [
        "\n".join(lines),
        "\n".join(merges),
        "[" * 20_000,
        "- " * 20_000,
        "? " * 20_000,
        "name: " + "9" * 5000,
        "a: &a [*a]",
        "name: 2024-99-99",
        "name: !!binary '*'",
        "? [a]\n: 1",
    ]


def tar_of(rows: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("rows.jsonl")
        member.size = len(rows)
        archive.addfile(member, io.BytesIO(rows))
    return packed.getvalue()


def zip_of(rows: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.jsonl", rows)
    return packed.getvalue()


def table(counts: list[Count]) -> str:
    """The page of counts."""
    total = Count("all")
    for count in counts:
        for name in ("n", "n_tracebacks", "n_silent", "n_differing", "n_slow"):
            setattr(total, name, getattr(total, name) + getattr(count, name))
    head = (
        "| attack | times | tracebacks | silent changes | results that differ | too slow |\n|---|---|---|---|---|---|"
    )
    return "\n".join([head, *(count.row() for count in counts), total.row()])


def run(
    *, n_points: int, n_pairs: int, n_inputs: int, seconds: float, seed: int, writers: tuple[Writer, ...] = WRITERS
) -> list[Count]:
    """The whole campaign; its counts."""
    with tempfile.TemporaryDirectory(prefix="mtrouter-rl-attack-") as folder:
        base = Base(Path(folder) / "base")
        campaign = Campaign(base, Path(folder) / "scratch", seconds=seconds, seed=seed)
        campaign.scratch.mkdir()
        campaign.kills(n_points, writers)
        campaign.races(n_pairs, writers)
        campaign.disks(max(2, n_points // 3), writers)
        campaign.fuzz(n_inputs)
        return campaign.counts


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("points", 20), ("pairs", 20), ("inputs", 10_000), ("seconds", 900), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    counts = run(n_points=args.points, n_pairs=args.pairs, n_inputs=args.inputs, seconds=args.seconds, seed=args.seed)
    print(table(counts))
    for count in counts:
        for note in count.notes[:3]:
            print(f"  {note}")
    return 0 if all(count.is_clean for count in counts) else 1


if __name__ == "__main__":
    sys.exit(_main())
