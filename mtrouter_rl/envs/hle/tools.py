"""The tools that a model may call: each takes a text and gives a text, and never raises for what a model wrote."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mtrouter_rl.envs.hle.actions import Action, Tool
from mtrouter_rl.envs.hle.sandbox import Language, Sandbox
from mtrouter_rl.envs.hle.search import SearchBackend
from mtrouter_rl.records import JsonValue

_MAX_REMEMBERED = 20_000


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """What a tool answers.

    Attributes:
        observation: Text for the model.
        error: Kind of error; empty if none.
        hidden: What is logged apart.
    """

    observation: str
    error: str = ""
    hidden: Mapping[str, JsonValue] = field(default_factory=dict)


class ToolBox:
    """The tools of an environment, all but "answer"."""

    def __init__(
        self, *, search: SearchBackend | None, sandbox: Sandbox, n_characters: int, remembers_programs: bool
    ) -> None:
        """Create the tools.

        Args:
            search: Who searches and opens documents; None if neither tool is offered.
            sandbox: Who runs programs.
            n_characters: Longest text of a document's page or a list of hits.
            remembers_programs: Whether a program that ran before is answered from memory.
        """
        self._search = search
        self._sandbox = sandbox
        self._n_characters = n_characters
        self._remembered: OrderedDict[tuple[Language, str], ToolResult] | None = (
            OrderedDict() if remembers_programs else None
        )
        self._tools: dict[Tool, Callable[[str], ToolResult]] = {
            "search": self._find,
            "browse": self._open,
            "python": lambda code: self._run("python", code),
            "bash": lambda code: self._run("bash", code),
        }

    def call(self, action: Action) -> ToolResult:
        """Call a tool.

        Raises:
            SimulatorError: If the sandbox or the search backend is broken.
        """
        return self._tools[action.tool](action.argument)

    def _find(self, query: str) -> ToolResult:
        assert self._search is not None
        hits = self._search.search(query)
        lines = [f"{number}. [{hit.id}] {hit.title}: {hit.snippet}" for number, hit in enumerate(hits, start=1)]
        return ToolResult(observation="\n".join(lines)[: self._n_characters] or "No document matches.")

    def _open(self, argument: str) -> ToolResult:
        """Open a document; a number behind its id is a page."""
        assert self._search is not None
        document_id, page = argument.strip("[]<>\"'` "), 1
        text = self._search.open(document_id)
        if text is None:
            head, _, last = argument.strip().rpartition(" ")
            if last.isdecimal() and len(last) < 7:
                document_id, page = head.strip("[]<>\"'` "), int(last)
                text = self._search.open(document_id)
        if text is None:
            return ToolResult(observation=f"There is no document '{document_id[:200]}'.", error="unknown_document")
        n_pages = max(-(-len(text) // self._n_characters), 1)
        if not 1 <= page <= n_pages:
            return ToolResult(observation=f"Document [{document_id}] has pages 1 to {n_pages}.", error="unknown_page")
        shown = text[(page - 1) * self._n_characters : page * self._n_characters]
        where = f" page {page} of {n_pages}" if n_pages > 1 else ""
        return ToolResult(observation=f"[{document_id}]{where} {shown}")

    def _run(self, language: Language, code: str) -> ToolResult:
        if self._remembered is not None and (language, code) in self._remembered:
            self._remembered.move_to_end((language, code))
            return self._remembered[language, code]
        result = self._sandbox.run(code, language)
        answer = ToolResult(
            observation=result.describe(self._sandbox.limits),
            error=result.error,
            hidden={"isolation": self._sandbox.level, "exit_status": result.exit_status, "signal": result.signal},
        )
        if self._remembered is not None and result.stopped != "time_limit":  # another time it might be in time
            self._remembered[language, code] = answer
            if len(self._remembered) > _MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return answer
