"""Collect with a real model and two simulated ones, train, serve, let an agent use it, import what was served, train again.

Every step is a command that a user could type; what is done is kept, so a study that was stopped goes on.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mtrouter_rl.cards.splits import sample_specs
from mtrouter_rl.datasets.info import INFO_FILE
from mtrouter_rl.datasets.store import Dataset, load_hidden
from mtrouter_rl.envs.factory import EnvConfig, resolve_env
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.files import write_atomically
from mtrouter_rl.pools.local_llm import find_weights
from mtrouter_rl.studies.local.agent import Agent, Played
from mtrouter_rl.studies.local.cards import AGENT, CONTEXT_TOKENS, DOUBLES_POOL, REAL, env_card, pool_card, write_card
from mtrouter_rl.studies.local.servers import command, free_ports, served

DOUBLE_FINGERPRINT = "fake-llm"
_MAX_USD = 5.0


@dataclass(frozen=True, kw_only=True)
class LocalRequest:
    """What is run.

    Attributes:
        out: Folder of everything.
        n_episodes: Episodes that are collected.
        n_served: Episodes that the agent plays against the service.
        agent: Agent card that is trained; None takes a short fitted-q.
        seed: Seed of all draws.
        n_threads: Threads of the real model.
    """

    out: Path
    n_episodes: int = 40
    n_served: int = 12
    agent: str | None = None
    seed: int = 0
    n_threads: int = 1

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InvalidConfigError: If a number of episodes is below 1.
        """
        for name, value in (("--episodes", self.n_episodes), ("--served", self.n_served)):
            if value < 1:
                raise InvalidConfigError(f"{name} is {value}, must be at least 1")


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """What a model did.

    Attributes:
        model: Its name.
        is_real: Whether a language model answered.
        n_collected: Its replies in the log that was collected.
        n_served: Its replies in the log of the service.
        cost_usd: What they cost, at made-up prices.
    """

    model: str
    is_real: bool
    n_collected: int
    n_served: int
    cost_usd: float


@dataclass(frozen=True, kw_only=True)
class LocalResult:
    """What came of the study.

    Attributes:
        rows: A row for every model.
        n_collected: Episodes that were collected.
        utility_collected: Their mean utility.
        n_served: Episodes of the agent.
        utility_served: Their mean utility.
        billed_by_double_usd: What the double billed.
        booked_for_double_usd: What both logs hold of that.
        first: Folder of the router of the collected log.
        second: Folder of the router of both logs.
        seconds: Step -> how long it took.
    """

    rows: tuple[ModelRow, ...]
    n_collected: int
    utility_collected: float
    n_served: int
    utility_served: float
    billed_by_double_usd: float
    booked_for_double_usd: float
    first: Path
    second: Path
    seconds: dict[str, float]


def run_local(request: LocalRequest, *, say: Callable[[str], None]) -> LocalResult:
    """Run the study.

    Args:
        request: What to run.
        say: Told what begins.

    Raises:
        MissingDependencyError: If the real model or the service is not installed.
        BackendError: If a step fails; its output is in `out/log.txt`.
    """
    return _Study(request, say).run()


class _Study:
    def __init__(self, request: LocalRequest, say: Callable[[str], None]) -> None:
        find_weights()
        self._request, self._say = request, say
        self._out = request.out
        self._out.mkdir(parents=True, exist_ok=True)
        self._ports = free_ports(self._out, ("real", "doubles", "service"))
        self._env, self._pool, self._log = self._out / "env.yaml", self._out / "pool.yaml", self._out / "log.txt"
        write_card(self._env, env_card())
        urls = {name: f"http://127.0.0.1:{self._ports[name]}/v1" for name in ("real", "doubles")}
        write_card(self._pool, pool_card(real_url=urls["real"], doubles_url=urls["doubles"]))
        if request.agent is None:
            write_atomically(self._out / "agent.yaml", AGENT.encode())
        self._agent = request.agent or str(self._out / "agent.yaml")
        self._config: EnvConfig = resolve_env(self._env, self._pool)
        self._seconds: dict[str, float] = {}

    def run(self) -> LocalResult:
        with ExitStack() as stack:
            with self._step("start SmolLM2 (REAL) and the doubles (SIMULATED)"):
                self._serve_models(stack)
            with self._step(f"collect {self._request.n_episodes} episodes of the corridor over HTTP"):
                self._collect()
            with self._step(f"train {Path(self._agent).stem} on them"):
                self._train("first", self._out / "collected")
            with self._step(f"serve the router, and let an agent play {self._request.n_served} episodes against it"):
                played = self._use()
        with self._step("import what was served"):
            self._import()
        with self._step("train again, on both logs"):
            self._train("second", self._out / "collected", self._out / "served")
        result = self._result(played)
        text = json.dumps(result, default=lambda one: str(one) if isinstance(one, Path) else vars(one), indent=2)
        write_atomically(self._out / "local.json", text.encode())
        return result

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        self._say(f"{len(self._seconds) + 1}/6 {what}")
        started_s = time.monotonic()
        yield
        self._seconds[what] = time.monotonic() - started_s

    def _serve_models(self, stack: ExitStack) -> None:
        real = ["local-llm", "--slots", "1", "--context", str(CONTEXT_TOKENS), "--name", REAL]
        real += ["--threads", str(self._request.n_threads)]
        doubles = ["fake-llm", "--env", str(self._env), "--pool", DOUBLES_POOL]
        doubles += ["--ledger", str(self._out / "billed.jsonl")]
        for words, name in ((real, "real"), (doubles, "doubles")):
            stack.enter_context(served(words, port=self._ports[name], health="health", log=self._log))

    def _collect(self) -> None:
        given = ["--policy", "uniform", "--episodes", str(self._request.n_episodes), "--seed", str(self._request.seed)]
        money = ["--max-usd", str(_MAX_USD), "--spend-ledger", str(self._out / "spend.sqlite")]
        folder = str(self._out / "collected")
        cards = ["--env", str(self._env), "--pool", str(self._pool)]
        command(["collect", *cards, *given, "--workers", "1", *money, "--out", folder], log=self._log)

    def _train(self, name: str, *datasets: Path) -> None:
        folder = self._out / "routers" / name
        if (folder / "router.json").is_file():
            return
        reward = self._config.reward
        words = ["train", "--agent", self._agent, "--dataset", *map(str, datasets), "--env", str(self._env)]
        words += ["--pool", str(self._pool), "--cost-weight", str(reward.cost_weight)]
        words += ["--cost-unit-usd", str(reward.cost_unit_usd)] if len(datasets) > 1 else []
        words += ["--encoder", "hashing", "--seed", str(self._request.seed), "--workers", "1"]
        words += [
            "--spend-ledger",
            str(self._out / "spend.sqlite"),
        ]  # training calls nobody; no ledger of the user is made
        command([*words, "--out", str(folder)], log=self._log)

    def _use(self) -> list[Played]:
        """Play what is not played yet; what is, stands in a file."""
        file = self._out / "played.jsonl"
        played = [Played(**json.loads(line)) for line in file.read_text().splitlines()] if file.is_file() else []
        specs = sample_specs(self._config.card, "test", n_episodes=self._request.n_served, seed=self._request.seed)
        words = ["serve", str(self._out / "routers" / "first"), "--pool", str(self._pool), "--no-watch"]
        words += ["--store", str(self._out / "served.sqlite"), "--explore", "0.2", "--seed", str(self._request.seed)]
        if len(played) >= len(specs):
            return played[: len(specs)]
        with served(words, port=self._ports["service"], health="readyz", log=self._log) as address:
            agent = Agent(self._config, address)
            for number, spec in list(enumerate(specs))[len(played) :]:
                # One that was cut off by a kill is played again under a new name, and left out of the import without a score.
                one = agent.play(spec, run=f"{number}-{time.time_ns():x}")
                played.append(one)
                with file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(vars(one)) + "\n")
        return played

    def _import(self) -> None:
        folder = self._out / "served"
        if (folder / INFO_FILE).is_file():
            return
        words = [
            "import",
            "served",
            str(self._out / "served.sqlite"),
            "--pool",
            str(self._pool),
            "--max-left-out",
            "100%",
        ]
        command([*words, "--overwrite", "--out", str(folder)], log=self._log)

    def _result(self, played: list[Played]) -> LocalResult:
        collected, back = Dataset.load(self._out / "collected"), Dataset.load(self._out / "served")
        real = _really_answered(self._out / "collected", collected)
        rows = []
        for name in self._config.pool.model_names:
            of_model = [
                [t for e in log.episodes for t in e.turns if t.served_model == name] for log in (collected, back)
            ]
            rows.append(
                ModelRow(
                    model=name,
                    is_real=name in real,
                    n_collected=len(of_model[0]),
                    n_served=len(of_model[1]),
                    cost_usd=math.fsum(turn.cost_usd for turns in of_model for turn in turns),
                )
            )
        return LocalResult(
            rows=tuple(rows),
            n_collected=len(collected.episodes),
            utility_collected=_mean([one.utility for one in collected.episodes]),
            n_served=len(back.episodes),
            utility_served=_mean([one.utility for one in played]),
            billed_by_double_usd=_billed(self._out / "billed.jsonl"),
            booked_for_double_usd=math.fsum(row.cost_usd for row in rows if not row.is_real),
            first=self._out / "routers" / "first",
            second=self._out / "routers" / "second",
            seconds=self._seconds,
        )


def _really_answered(folder: Path, dataset: Dataset) -> set[str]:
    """Models whose replies do not bear the fingerprint of the double; one that has both is an error of the set-up."""
    hidden = load_hidden(folder)
    found: dict[str, set[bool]] = {}
    for episode in dataset.episodes:
        for turn, about in zip(episode.turns, hidden[episode.episode_id], strict=True):
            found.setdefault(turn.served_model, set()).add(about.get("system_fingerprint") != DOUBLE_FINGERPRINT)
    mixed = sorted(name for name, kinds in found.items() if len(kinds) > 1)
    if mixed:
        raise InvalidConfigError(
            f"replies of {', '.join(mixed)} are partly real and partly simulated; give another --out"
        )
    return {name for name, kinds in found.items() if True in kinds}


def _billed(ledger: Path) -> float:
    lines = ledger.read_text(encoding="utf-8").splitlines() if ledger.is_file() else []
    return math.fsum(json.loads(line)["cost_usd"] for line in lines)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def format_local(result: LocalResult) -> str:
    """The result as text, with who really answered."""
    lines = [
        f"{'model':<10}{'who answered':<34}{'collected':>10}{'served':>8}{'USD (made-up prices)':>22}",
        *(
            f"{row.model:<10}{_who(row):<34}{row.n_collected:>10}{row.n_served:>8}{row.cost_usd:>22.6f}"
            for row in result.rows
        ),
        "",
        f"collected: {result.n_collected} episodes, mean score {100 * result.utility_collected:.1f}",
        f"served:    {result.n_served} episodes, mean score {100 * result.utility_served:.1f}",
        f"the double billed {result.billed_by_double_usd:.6f} USD; the two logs hold {result.booked_for_double_usd:.6f} of it",
        f"{sum(result.seconds.values()):.0f} s: " + ", ".join(f"{seconds:.0f}" for seconds in result.seconds.values()),
        "It shows that the loop closes over the protocol. It is no claim about routing or about any model.",
    ]
    return "\n".join(lines)


def _who(row: ModelRow) -> str:
    return "REAL (SmolLM2-135M, this machine)" if row.is_real else "SIMULATED (test double)"
