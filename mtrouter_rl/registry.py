"""Registries of implementations by name: one line here, or an entry point in a third party's package.

Implementations are named as "module:attribute" and imported only when they are used, so that listing names starts
nothing and heavy optional packages load where they are needed.

A card, a log or a router may come from a stranger, and importing a module runs it. So a name in such a file stands for what is
built in or registered by an installed package, and "module:attribute" is refused unless the user allows it: with the option
`--allow-code`, with `allow_code=True`, or with `code_allowed()`.
"""

import importlib
import importlib.metadata
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType

from mtrouter_rl.errors import InvalidConfigError, unknown_name

logger = logging.getLogger(__name__)

ALLOW_CODE_VARIABLE = "MTROUTER_RL_ALLOW_CODE"
"""Environment variable that `--allow-code` sets to 1, so that worker processes know of it."""


def is_code_allowed() -> bool:
    """Whether the user allows cards to name code that no installed package registers."""
    return os.environ.get(ALLOW_CODE_VARIABLE, "") == "1"


@contextmanager
def code_allowed(is_allowed: bool = True) -> Iterator[None]:
    """Allow it meanwhile, in this process and in those that it starts; `False` leaves everything as it is."""
    before = os.environ.get(ALLOW_CODE_VARIABLE)
    if is_allowed:
        os.environ[ALLOW_CODE_VARIABLE] = "1"
    try:
        yield
    finally:
        if is_allowed and before is None:
            os.environ.pop(ALLOW_CODE_VARIABLE, None)
        elif is_allowed and before is not None:
            os.environ[ALLOW_CODE_VARIABLE] = before


def registered(group: str) -> tuple[importlib.metadata.EntryPoint, ...]:
    """Entry points of a group, of every package on the present `sys.path`; a path is searched once in a process."""
    return _registered(group, tuple(sys.path))


@cache
def _registered(group: str, _path: tuple[str, ...]) -> tuple[importlib.metadata.EntryPoint, ...]:
    return tuple(importlib.metadata.entry_points(group=group))


@dataclass(frozen=True, kw_only=True)
class Registry:
    """Names of one family of implementations.

    Attributes:
        kind: What they are, for error messages, such as "agent algorithm".
        group: Entry-point group through which other packages add theirs.
        builtin: Name -> "module:attribute" of our own.
        is_of_saved_files: Whether the names stand in files that this package writes itself, such as `router.json`; those never
            hold "module:attribute", whatever the user allows.
    """

    kind: str
    group: str
    builtin: dict[str, str] = field(default_factory=dict)
    is_of_saved_files: bool = False

    def targets(self) -> dict[str, str]:
        """Every known name with its "module:attribute"; our own win over a plug-in of the same name."""
        plugins = {entry.name: entry.value for entry in registered(self.group)}
        return plugins | self.builtin

    def load_all(self) -> dict[str, object]:
        """Every implementation that can be imported, by name; a plug-in that cannot is left out with a warning."""
        found: dict[str, object] = {}
        for name in sorted(self.targets()):
            try:
                found[name] = self.load(name)
            except InvalidConfigError as error:
                if name in self.builtin:
                    raise
                logger.warning("left out: %s", error)
        return found

    def load(self, name: str, *, allow_code: bool = False) -> object:
        """Import an implementation.

        Args:
            name: A registered name; "module:attribute" only where code is allowed.
            allow_code: Whether "module:attribute" is taken at its word, without registration; or see `is_code_allowed`.

        Raises:
            UnknownNameError: If nothing is registered under the name.
            InvalidConfigError: If the name is code and code is not allowed, or what it stands for cannot be imported; names the
                module and what went wrong.
        """
        target = self.builtin.get(name) or self.targets().get(name)
        if target:
            return load_target(target, what=f"{self.kind} '{name}'")
        if ":" not in name or self.is_of_saved_files:
            raise unknown_name(
                self.kind, name, self.targets(), fix=f"Plug-ins register under entry-point group {self.group}"
            )
        check_code_allowed(name, what=self.kind, group=self.group, allow_code=allow_code)
        return load_target(name, what=f"{self.kind} '{name}'", looks_here=True)


def check_code_allowed(name: str, *, what: str, group: str = "", allow_code: bool = False) -> None:
    """Refuse code that a card names, unless the user allows it.

    Args:
        name: "module:attribute".
        what: What it stands for, for the error message.
        group: Entry-point group in which it could be registered instead, if there is one.
        allow_code: Whether the caller allows it.

    Raises:
        InvalidConfigError: If nobody allows it.
    """
    if allow_code or is_code_allowed():
        return
    registered = f", or register it under entry-point group {group} and give the name" if group else ""
    raise InvalidConfigError(
        f"{what} '{name}' is code that would run on this machine, and a card may come from a stranger, so it is refused; if "
        f"you trust it, give the option --allow-code (in Python: mtrouter_rl.registry.code_allowed()){registered}"
    )


def load_target(target: str, *, what: str, looks_here: bool = False) -> object:
    """Import "module:attribute". It asks for no permission; see `check_code_allowed`.

    Args:
        target: Where it is.
        what: What it stands for, for error messages.
        looks_here: Whether a module that no installed package has is looked for in the working directory as well.

    Raises:
        InvalidConfigError: If there is no such module or attribute, or the module needs another one that is missing.
    """
    module, _, path = target.partition(":")
    try:
        loaded: object = _import_from_here(module) if looks_here else importlib.import_module(module)
    except ImportError as error:
        raise InvalidConfigError(
            f"{what} is '{target}', which cannot be imported: {error}; install the package, or correct the name"
        ) from error
    except Exception as error:  # whatever a plug-in raises while it is imported must not end the program
        raise InvalidConfigError(
            f"{what} is '{target}', which breaks while it is imported: {type(error).__name__}: {error}; mend or uninstall it"
        ) from error
    for attribute in path.split("."):
        if not hasattr(loaded, attribute):
            raise InvalidConfigError(
                f"{what} is '{target}', but '{module}' has no '{path}'; correct the name, or reinstall the plug-in"
            )
        loaded = getattr(loaded, attribute)
    return loaded


def _import_from_here(module: str) -> ModuleType:
    """Import a module; one that no installed package has is looked for in the working directory as well."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        here = str(Path.cwd())
        if error.name != module.partition(".")[0] or here in sys.path:
            raise
        sys.path.append(here)
        importlib.invalidate_caches()
        try:
            return importlib.import_module(module)
        finally:
            sys.path.remove(here)


TASK_FAMILIES = Registry(
    kind="environment family",
    group="mtrouter_rl.envs",
    builtin={
        "scienceworld": "mtrouter_rl.envs.scienceworld.task:make_task",
        "corridor": "mtrouter_rl.envs.corridor:make_task",
        "sums": "mtrouter_rl.envs.sums:make_task",
        "babyai": "mtrouter_rl.envs.babyai.task:make_task",
        "textworld": "mtrouter_rl.envs.textworld.task:make_task",
        "gymnasium_text": "mtrouter_rl.envs.gymnasium_text.task:make_task",
        "log_only": "mtrouter_rl.datasets.logged:make_task",
        "hle": "mtrouter_rl.envs.hle.task:make_task",
        "replay": "mtrouter_rl.envs.replay.task:make_task",
    },
)
"""Name -> function (EnvCard) -> TextTask."""

CARD_COMPLETERS = Registry(
    kind="environment family that completes its cards",
    group="mtrouter_rl.card_completers",
    builtin={
        "hle": "mtrouter_rl.envs.hle.task:complete_card",
        "replay": "mtrouter_rl.envs.replay.task:complete_card",
    },
)
"""Name of a family -> function (EnvCard) -> EnvCard that fills in what only a file of the user says; most have none."""

SEARCH_BACKENDS = Registry(
    kind="search backend",
    group="mtrouter_rl.search",
    builtin={"corpus": "mtrouter_rl.envs.hle.search:make_corpus"},
)
"""Name -> function (options) -> `mtrouter_rl.envs.hle.search.SearchBackend`."""

BACKENDS = Registry(
    kind="model backend",
    group="mtrouter_rl.backends",
    builtin={
        "simulated": "mtrouter_rl.pools.simulated.backend:make_backend",
        "openai_compatible": "mtrouter_rl.pools.openai_compatible:make_backend",
        "log_only": "mtrouter_rl.datasets.logged:make_backend",
        "replay": "mtrouter_rl.envs.replay.task:make_backend",
    },
)
"""Name -> function (PoolCard, EnvCard) -> ModelBackend."""

ENCODERS = Registry(
    kind="text encoder",
    group="mtrouter_rl.encoders",
    builtin={
        "minilm": "mtrouter_rl.embeddings.encoders:make_minilm",
        "minilm-bf16": "mtrouter_rl.embeddings.minilm_bf16:make_minilm_bf16",
        "minilm-onnx": "mtrouter_rl.embeddings.minilm_onnx:make_minilm_onnx",
        "hashing": "mtrouter_rl.embeddings.encoders:make_hashing",
    },
)
"""Name -> function () -> TextEncoder."""

DEFAULT_ENCODER = "hashing"
"""Needs no weights and no time; `minilm` is the choice where texts say the same in other words."""

ALGORITHMS = Registry(
    kind="agent algorithm",
    group="mtrouter_rl.agents",
    builtin={
        "fitted_q": "mtrouter_rl.agents.q.fitted_q:FittedQ",
        "fitted_q_budget": "mtrouter_rl.agents.q.fitted_q_budget:FittedQBudget",
        "fitted_q_frontier": "mtrouter_rl.agents.q.fitted_q_frontier:FittedQFrontier",
        "monte_carlo_q": "mtrouter_rl.agents.q.monte_carlo_q:MonteCarloQ",
        "myopic": "mtrouter_rl.agents.q.myopic:Myopic",
        "factored_q": "mtrouter_rl.agents.factored.factored_q:FactoredQ",
        "behavior_cloning": "mtrouter_rl.agents.q.behavior_cloning:BehaviorCloning",
        "uniform": "mtrouter_rl.agents.rules.heuristics:Uniform",
        "single": "mtrouter_rl.agents.rules.heuristics:Single",
        "cheapest": "mtrouter_rl.agents.rules.heuristics:Cheapest",
        "strongest": "mtrouter_rl.agents.rules.heuristics:Strongest",
        "task_table": "mtrouter_rl.agents.regression.table:TaskTable",
        "task_ridge": "mtrouter_rl.agents.regression.ridge:TaskRidge",
        "task_neighbors": "mtrouter_rl.agents.regression.neighbors:TaskNeighbors",
        "task_clusters": "mtrouter_rl.agents.regression.clusters:TaskClusters",
        "task_boosting": "mtrouter_rl.agents.regression.boosting:TaskBoosting",
        "task_factorization": "mtrouter_rl.agents.regression.factorization:TaskFactorization",
        "turn_ridge": "mtrouter_rl.agents.regression.ridge:TurnRidge",
        "turn_neighbors": "mtrouter_rl.agents.regression.neighbors:TurnNeighbors",
        "turn_clusters": "mtrouter_rl.agents.regression.clusters:TurnClusters",
        "turn_boosting": "mtrouter_rl.agents.regression.boosting:TurnBoosting",
        "escalate_on_error": "mtrouter_rl.agents.rules.escalate_on_error:EscalateOnError",
        "strong_first": "mtrouter_rl.agents.rules.schedules:StrongFirst",
        "cheap_first": "mtrouter_rl.agents.rules.schedules:CheapFirst",
        "interleave": "mtrouter_rl.agents.rules.schedules:Interleave",
        "cascade": "mtrouter_rl.agents.regression.cascade:Cascade",
        "llm_router": "mtrouter_rl.agents.rules.llm_router:LLMRouter",
    },
)
"""Name -> class that satisfies `mtrouter_rl.agents.base.Algorithm`."""

IMPORTERS = Registry(
    kind="log format",
    group="mtrouter_rl.importers",
    builtin={
        "balrog": "mtrouter_rl.datasets.importers.balrog:BalrogImporter",
        "mtrouter": "mtrouter_rl.datasets.importers.mtrouter:MTRouterImporter",
        "atif": "mtrouter_rl.datasets.importers.formats.atif:ATIFImporter",
        "litellm": "mtrouter_rl.datasets.importers.formats.litellm:LiteLLMImporter",
        "langfuse": "mtrouter_rl.datasets.importers.formats.langfuse:LangfuseImporter",
        "otel": "mtrouter_rl.datasets.importers.formats.otel:OTelImporter",
        "inspect": "mtrouter_rl.datasets.importers.formats.inspect_logs:InspectImporter",
        "sweagent": "mtrouter_rl.datasets.importers.formats.sweagent:SWEAgentImporter",
        "claude-code": "mtrouter_rl.datasets.importers.formats.claude_code:ClaudeCodeImporter",
        "codex": "mtrouter_rl.datasets.importers.formats.codex:CodexImporter",
        "served": "mtrouter_rl.datasets.importers.served:ServedImporter",
        "openai-pairs": "mtrouter_rl.datasets.importers.formats.openai_pairs:OpenAIPairsImporter",
        "tau2": "mtrouter_rl.datasets.importers.tau2:Tau2Importer",
        "openai-jsonl": "mtrouter_rl.datasets.importers.openai_jsonl:OpenAIJsonlImporter",
        "llmrouterbench": "mtrouter_rl.datasets.importers.llmrouterbench:LLMRouterBenchImporter",
        "routerbench": "mtrouter_rl.datasets.importers.routerbench:RouterBenchImporter",
    },
)
"""Name -> class that satisfies `mtrouter_rl.datasets.importers.base.Importer`."""

EXPORTERS = Registry(
    kind="export format",
    group="mtrouter_rl.exporters",
    builtin={
        "jsonl": "mtrouter_rl.exporters.jsonl:export_jsonl",
        "minari": "mtrouter_rl.exporters.minari:export_minari",
        "d3rlpy": "mtrouter_rl.exporters.d3rlpy:export_d3rlpy",
        "huggingface": "mtrouter_rl.exporters.huggingface:export_huggingface",
        "distillation": "mtrouter_rl.exporters.distillation:export_distillation",
    },
)
"""Name -> function that satisfies `mtrouter_rl.exporters.base.Exporter`."""

RESTORERS = Registry(
    kind="restorable format",
    group="mtrouter_rl.restorers",
    builtin={
        "jsonl": "mtrouter_rl.exporters.jsonl:restore_jsonl",
        "minari": "mtrouter_rl.exporters.minari:restore_minari",
    },
)
"""Name -> function (Path) -> (DatasetInfo, iterator of TracedEpisode): the inverse of an exporter that loses nothing."""
