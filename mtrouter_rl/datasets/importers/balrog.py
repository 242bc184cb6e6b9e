"""Imports result folders of the BALROG benchmark, as they are published: one arm (a model and its agent) an episode.

Source: arXiv 2411.13543, github.com/balrog-ai/experiments. `balrog_files` knows the files.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from mtrouter_rl.cards.policy import single_policy
from mtrouter_rl.datasets.importers.archives import LogFile, read_files
from mtrouter_rl.datasets.importers.balrog_files import (
    EpisodeTotals,
    Rows,
    RunKey,
    apportion,
    locate,
    parse_rows,
    parse_totals,
    run_file,
    window_lengths,
)
from mtrouter_rl.datasets.importers.base import Amount, ImportReport, ImportSource, ModelNames, UnusableEpisodeError
from mtrouter_rl.datasets.importers.sample import Sample
from mtrouter_rl.errors import DatasetError, InvalidConfigError
from mtrouter_rl.pools.usage import OVER_WINDOW
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, Episode, Frozen, JsonValue, TokenUsage, Turn

PUBLISHED_LIMITS = {"babaisai": 100, "babyai": 128, "crafter": 2000, "minihack": 100, "nle": 100_000, "textworld": 80}
"""Source: `balrog/config/config.yaml` of the benchmark; for babyai and babaisai, where it has none, what the logs show."""

EMPTY = "empty"
INVALID_ACTION = "invalid_action"
BILLED_EMPTY = "calls without text that were billed, as the totals show: tokens are spread over all calls"
MAX_INSTRUCTION_TOKENS = 4096
"""Instructions of the benchmark's agents are shorter than this in every arm that was seen (350 to 1,700 tokens)."""
_VARIATION_BYTES = 6


class BalrogOptions(Frozen):
    """Options of the format.

    Attributes:
        hidden_reasoning_models: Models whose vendor bills thinking tokens that the log leaves out.
        hidden_tokens_per_answer: Thinking tokens of a call that returned text.
        hidden_tokens_per_empty_call: Thinking tokens of a call that returned none.
        step_limits: Turn limit by environment.
    """

    hidden_reasoning_models: Annotated[
        tuple[str, ...],
        Field(description="models of the pool whose vendor bills thinking tokens that the log leaves out"),
    ] = ()
    hidden_tokens_per_answer: Annotated[
        int, Field(ge=0, le=1_000_000, description="thinking tokens assumed for each of their calls that returned text")
    ] = 0
    hidden_tokens_per_empty_call: Annotated[
        int, Field(ge=0, le=1_000_000, description="thinking tokens assumed for each of their calls that returned none")
    ] = 0
    step_limits: Annotated[
        dict[str, Annotated[int, Field(gt=0)]],
        Field(description="turn limit by environment, for episodes that ended before it"),
    ] = PUBLISHED_LIMITS

    @model_validator(mode="after")
    def _tokens_have_models(self) -> "BalrogOptions":
        if (self.hidden_tokens_per_answer or self.hidden_tokens_per_empty_call) and not self.hidden_reasoning_models:
            raise ValueError("hidden tokens are given but hidden_reasoning_models is empty; name the models that think")
        return self


class BalrogImporter:
    """Reads BALROG archives and folders in place; holds no more than the files whose other half has not come yet."""

    options_model: ClassVar[type[Frozen]] = BalrogOptions
    description: ClassVar[str] = "result folders or archives of the BALROG benchmark (JSON totals, CSV turns)"

    def __init__(self, options: Frozen) -> None:
        """Take the checked options."""
        self._options = BalrogOptions.model_validate(options.model_dump())
        self.env = "balrog"
        self.propensities: Literal["exact", "estimated", "unknown"] = "exact"
        self.is_simulated = False
        self.assumptions = (*_ASSUMPTIONS, *_hidden_assumptions(self._options))

    @classmethod
    def recognizes(cls, sample: Sample) -> str:
        """Why a file looks like this format; empty if it does not."""
        fits = {"task", "num_steps", "progression"} <= sample.first.keys()
        is_table = "_run_" in sample.name and {"Step", "Observation", "Action", "Done"} <= sample.first.keys()
        return "totals of a BALROG episode" if fits else "turns of a BALROG episode" if is_table else ""

    def episodes(self, source: ImportSource) -> Iterator[Episode]:
        """Episodes one by one, in the order in which their second file comes; see `Importer`.

        Raises:
            DatasetError: If no path holds a file of a BALROG episode.
            InvalidConfigError: If an option names a model that the pool does not have.
        """
        convert = _Converter(source, self._options)
        n_files = 0
        for path in source.paths:
            n_here = 0
            for key, halves in _paired(source.report, path):
                n_here += len(halves)
                episode = convert.episode(key, halves)
                if episode is not None:
                    yield episode
            if not n_here:
                source.report.note("path without any BALROG episode", source=path.name)
            n_files += n_here
        if not n_files:
            raise DatasetError(
                f"no BALROG episode in {', '.join(map(str, source.paths))}; give a submission's folder or archive, which "
                "holds <submission>/<env>/<task>/<task>_run_NN.json and the same names in .csv"
            )


_ASSUMPTIONS = (
    "propensity is 1: one model played an episode from start to end, which is exact for the policy 'single:<model>'",
    "the whole utility is booked on the last turn: the log has the final progression only",
    "tokens a turn are reconstructed from the episode's totals, to which they add up: prompts by the length of the last "
    "16 observation/action pairs (or as many as the log says) and of instructions that take what is left of the total at "
    "the pool's characters per token, outputs by the length of the completion",
    "a call that returned no text was logged with 0 tokens, so it has no share of the logged totals, unless those are far "
    "more than the calls with text can have had: then every call has its share",
    "costs are tokens times the prices of the pool card; what was billed is not in the log",
    "the observation at reset was never logged: first_observation is empty, and the task text says environment, task and "
    "mission only",
    "max_turns is the benchmark's published step limit of the environment, or the number of turns where that is larger, "
    "not known, or the episode was cut off there",
    "every run is a variation of its own (a 48-bit hash of submission and run), since no two arms played the same instance",
)


def _hidden_assumptions(options: BalrogOptions) -> Iterator[str]:
    models = ", ".join(options.hidden_reasoning_models)
    if options.hidden_tokens_per_answer:
        yield f"{options.hidden_tokens_per_answer} thinking tokens are added to every answered call of {models}"
    if options.hidden_tokens_per_empty_call:
        yield f"{options.hidden_tokens_per_empty_call} thinking tokens are added to every empty call of {models}"


def _paired(report: ImportReport, path: Path) -> Iterator[tuple[RunKey, dict[str, LogFile]]]:
    """Both files of every episode below a path, by kind; at the end those that stayed alone."""
    waiting: dict[RunKey, tuple[str, LogFile]] = {}
    for file in read_files(path, report, suffixes=(".json", ".csv")):
        match = run_file(file)
        if match is None:
            if not file.path.name.endswith("summary.json"):
                report.note("file that is no part of an episode", source=file.source)
            continue
        try:
            key = locate(file, match, path)
        except UnusableEpisodeError as error:
            report.reject(error.reason, source=file.source, detail=error.detail)
            continue
        kind = match["kind"]
        other_kind, other = waiting.get(key, ("", file))
        if other_kind == kind:
            report.reject("file that is there twice", source=file.source, detail=f"the first is {other.source}")
        elif other_kind:
            del waiting[key]
            yield key, {kind: file, other_kind: other}
        else:
            waiting[key] = kind, file
    for key, (kind, file) in waiting.items():
        yield key, {kind: file}


class _Converter:
    """Turns the two files of an episode into an `Episode`, or counts why it cannot."""

    def __init__(self, source: ImportSource, options: BalrogOptions) -> None:
        self._pool = source.pool
        self._report = source.report
        self._options = options
        self._names = ModelNames(source.pool)
        self._hidden = {self._known_model(name) for name in options.hidden_reasoning_models}

    def _known_model(self, name: str) -> str:
        found = self._names.find(name)
        if found is None:
            raise InvalidConfigError(f"option 'hidden_reasoning_models': {self._names.explain(name)}")
        return found

    def episode(self, key: RunKey, files: dict[str, LogFile]) -> Episode | None:
        """The episode, or None if it is left out and counted."""
        source = next(iter(files.values())).source
        n_turns = 0
        amount: Amount | None = None
        try:
            parsed = parse_totals(files["json"].data) if "json" in files else None
            n_turns = parsed[0].num_steps if parsed else 0
            amount = self._amount(key, parsed[0]) if parsed else None
            rows = parse_rows(files["csv"].data) if "csv" in files else None
            n_turns = len(rows.actions) if rows else n_turns
            if parsed is None:
                raise UnusableEpisodeError("CSV without its JSON")
            if rows is None:
                raise UnusableEpisodeError("JSON without its CSV")
            totals, others = parsed
            _check_agreement(key, totals, rows)
            return self._build(key, totals, rows, others)
        except UnusableEpisodeError as error:
            self._report.reject(error.reason, source=source, detail=error.detail, n_turns=n_turns, amount=amount)
            return None

    def _amount(self, key: RunKey, totals: EpisodeTotals) -> Amount:
        """Tokens and money of an episode that cannot be used."""
        tokens = TokenUsage(n_fresh=totals.input_tokens, n_output=totals.output_tokens)
        model = self._names.find(key.submission, totals.model_id)
        usd = None if model is None else self._pool.model(model).prices.cost_usd(tokens)
        n_calls = totals.num_steps
        return replace(Amount.of_call(tokens, usd), n_calls=n_calls, n_unknown=n_calls if usd is None else 0)

    def _build(self, key: RunKey, totals: EpisodeTotals, rows: Rows, others: dict[str, JsonValue]) -> Episode:
        model = self._names.find(key.submission, totals.model_id)
        if model is None:
            raise UnusableEpisodeError("model that is not in the pool", self._names.explain(key.submission))
        self._note(key, totals, rows)
        limit = self._options.step_limits.get(key.env, 0) if rows.is_done else 0
        mission = f"\nMission: {totals.mission}" if totals.mission is not None else ""
        usages, n_hidden = self._usages(key, model, totals, rows)
        return Episode(
            episode_id=key.episode_id,
            task=f"{key.env}/{key.task}",
            variation=variation_of(key),
            seed=totals.seed or 0,
            split="train",
            task_text=f"Environment: {key.env}\nTask: {key.task}{mission}",
            first_observation="",
            behavior_policy=single_policy(model),
            budget_usd=UNLIMITED_BUDGET_USD,
            max_turns=max(limit, len(rows.actions)),
            turns=self._turns(model, totals, rows, usages),
            usage_source="reconstructed",
            extra=others | _extra(key, totals) | {"assumed_hidden_tokens": n_hidden},
        )

    def _note(self, key: RunKey, totals: EpisodeTotals, rows: Rows) -> None:
        where = key.episode_id
        if totals.seed is None:
            self._report.note("seed that was not logged, 0 stands for it", source=where)
        if rows.n_nul_bytes:
            self._report.note("NUL bytes that were removed", source=where, n=rows.n_nul_bytes)
        if totals.failed_candidates is None:
            self._report.note("invalid actions that were not logged", source=where)
        played = set(rows.actions)
        n_unseen = sum(isinstance(text, str) and text not in played for text in totals.failed_candidates or ())
        if n_unseen:
            self._report.note(
                "invalid completion that the log shows as the action played instead, so that no turn is marked",
                source=where,
                n=n_unseen,
            )

    def _usages(self, key: RunKey, model: str, totals: EpisodeTotals, rows: Rows) -> tuple[list[TokenUsage], int]:
        """Tokens of every turn, and how many of them are assumed ones that the log leaves out."""
        has_share = self._billed(key, totals, rows)
        prompts = apportion(totals.input_tokens, self._prompt_weights(totals, rows, has_share))
        outputs = apportion(totals.output_tokens, self._output_weights(totals, rows, has_share))
        assert sum(prompts) == totals.input_tokens
        assert sum(outputs) == totals.output_tokens
        hidden = [0] * len(outputs)
        if model in self._hidden:
            answered, empty = self._options.hidden_tokens_per_answer, self._options.hidden_tokens_per_empty_call
            hidden = [answered if is_answered else empty for is_answered in rows.answered]
        usages = [
            TokenUsage(n_fresh=prompt, n_output=output + thought)
            for prompt, output, thought in zip(prompts, outputs, hidden, strict=True)
        ]
        window = self._pool.model(model).context_tokens
        over = [usage.n_prompt + usage.n_output for usage in usages if usage.n_prompt + usage.n_output > window]
        if over:
            detail = f"{max(over)} tokens at most, the window of '{model}' holds {window}"
            self._report.note(OVER_WINDOW, source=key.episode_id, detail=detail, n=len(over))
        return usages, sum(hidden)

    def _billed(self, key: RunKey, totals: EpisodeTotals, rows: Rows) -> Sequence[bool]:
        """Which calls have a share of the totals, length T: those that returned text, or all.

        It is all where the calls with text would each have had far more than their window of observations and actions and any
        instructions of the benchmark. Some vendors bill a call that is cut off while it thinks, and some do not.
        """
        windows = window_lengths(rows.actions, rows.observations, totals.history)
        n_answered = sum(rows.answered)
        if not n_answered or n_answered == len(windows):
            return (True,) * len(windows)
        in_windows = sum(length for length, is_answered in zip(windows, rows.answered, strict=True) if is_answered)
        per_token = self._pool.token_counter.characters_per_token
        instructions = (totals.input_tokens - in_windows / per_token) / n_answered
        if instructions <= max(windows) / per_token + MAX_INSTRUCTION_TOKENS:
            return rows.answered
        detail = (
            f"{totals.input_tokens} input tokens, {n_answered} of {len(windows)} calls returned text: "
            f"{totals.input_tokens // n_answered} each if those alone were billed"
        )
        self._report.note(BILLED_EMPTY, source=key.episode_id, detail=detail, n=len(windows) - n_answered)
        return (True,) * len(windows)

    def _prompt_weights(self, totals: EpisodeTotals, rows: Rows, has_share: Sequence[bool]) -> list[int]:
        """Characters of every prompt, by the length of its window and of instructions that fit the total."""
        windows = window_lengths(rows.actions, rows.observations, totals.history)
        in_windows = sum(length for length, is_billed in zip(windows, has_share, strict=True) if is_billed)
        n_characters = totals.input_tokens * self._pool.token_counter.characters_per_token
        instructions = max(0, round((n_characters - in_windows) / sum(has_share)))
        return [
            (length + instructions) if is_billed else 0 for length, is_billed in zip(windows, has_share, strict=True)
        ]

    def _output_weights(self, totals: EpisodeTotals, rows: Rows, has_share: Sequence[bool]) -> list[int]:
        """Characters of every output; where calls without text were billed, thinking that the log leaves out as well."""
        lengths = [len(reasoning or action) for action, reasoning in zip(rows.actions, rows.reasonings, strict=True)]
        if all(is_billed == is_answered for is_billed, is_answered in zip(has_share, rows.answered, strict=True)):
            return lengths
        n_characters = totals.output_tokens * self._pool.token_counter.characters_per_token
        thinking = max(0, round((n_characters - sum(lengths)) / len(lengths)))
        return [length + thinking for length in lengths]

    def _turns(self, model: str, totals: EpisodeTotals, rows: Rows, usages: list[TokenUsage]) -> tuple[Turn, ...]:
        cost_usd = self._pool.model(model).prices.cost_usd
        allowed, cold = (True,) * len(self._pool.models), (False,) * len(self._pool.models)
        invalid = totals.invalid_actions
        last = len(usages) - 1
        return tuple(
            Turn(
                model=model,
                served_model=model,
                action_text=action,
                observation_text=observation,
                usage=usage,
                cost_usd=cost_usd(usage),
                utility_gain=totals.progression if index == last else 0.0,
                propensity=1.0,
                action_mask=allowed,
                warm=cold,
                error=_error(action, is_answered=is_answered, invalid=invalid),
                latency_s=None,
                terminated=index == last and rows.is_done,
                truncated=index == last and not rows.is_done,
            )
            for index, (action, observation, is_answered, usage) in enumerate(
                zip(rows.actions, rows.observations, rows.answered, usages, strict=True)
            )
        )


def variation_of(key: RunKey) -> int:
    """Index of the instance that was played: equal for no two runs, so that nothing pairs episodes of different arms.

    A hash of 48 bits; among a thousand submissions of 60 runs each, two share one with a probability of 1 in 150,000.

    Example:
        >>> variation_of(RunKey(submission="a", env="babyai", task="goto", run="00"))
        110288108176893
    """
    digest = hashlib.blake2b(f"{key.submission}/{key.run}".encode(), digest_size=_VARIATION_BYTES).digest()
    return int.from_bytes(digest, "big")


def _error(action: str, *, is_answered: bool, invalid: frozenset[str]) -> str:
    if not is_answered:
        return EMPTY
    return INVALID_ACTION if action in invalid else ""


def _check_agreement(key: RunKey, totals: EpisodeTotals, rows: Rows) -> None:
    if totals.task != key.task:
        raise UnusableEpisodeError("JSON of another task than its path", f"'{totals.task}' in '{key.episode_id}'")
    if totals.num_steps != len(rows.actions):
        raise UnusableEpisodeError(
            "CSV with another number of turns than its JSON", f"{len(rows.actions)} rows, num_steps {totals.num_steps}"
        )
    if totals.done != rows.is_done:
        raise UnusableEpisodeError(
            "CSV with another end than its JSON", f"Done {rows.is_done} in the last row, done {totals.done}"
        )


def _extra(key: RunKey, totals: EpisodeTotals) -> dict[str, JsonValue]:
    agent = totals.agent.get("type")
    return {
        "submission": key.submission,
        "environment": key.env,
        "run": key.run,
        "model_id": totals.model_id,
        "agent_type": agent if isinstance(agent, str) else "",
        "seed": totals.seed,
        "logged_input_tokens": totals.input_tokens,
        "logged_output_tokens": totals.output_tokens,
        "n_invalid_actions": None if totals.failed_candidates is None else len(totals.failed_candidates),
    }
