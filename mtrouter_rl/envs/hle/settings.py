"""Settings of the family "hle" in an environment card."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mtrouter_rl.envs.hle.actions import Tool
from mtrouter_rl.envs.hle.llm_judge import EndpointJudgeCard
from mtrouter_rl.envs.hle.sandbox import SandboxLimits
from mtrouter_rl.envs.hle.search import SearchCard
from mtrouter_rl.records import Frozen


class SyntheticCard(Frozen):
    """The synthetic question set.

    Attributes:
        n_per_category: Questions of a category.
        seed: What they are drawn from.
    """

    n_per_category: Annotated[int, Field(gt=0)]
    seed: Annotated[int, Field(ge=0)]


class HleSettings(Frozen):
    """Settings of the family. Either `questions` or `synthetic` is given.

    Attributes:
        questions: File of questions in the schema of `cais/hle`, relative to the working directory.
        questions_sha256: SHA-256 of that file; filled in when the card is resolved. A log then knows what it was made from, and
            a file that has changed since is refused. May be written into the card to pin a file.
        images: Whether questions with an image are left out and counted, or are an error.
        synthetic: The synthetic question set instead of a file.
        tools: Tools that are offered; "answer" is among them.
        program: Limits of a program.
        isolation: Protection that programs need: "auto" takes the best that the machine allows.
        remembers_programs: Whether a program that ran before is answered from memory; nothing but time and chance could make
            the same program print something else.
        observation_characters: Longest text that a tool shows; a document goes on in further pages.
        search: Who searches; left out for the synthetic set, which has its own corpus.
        relative_tolerance: For numbers, in a judgement by rules.
        judge: A model that judges instead of rules.
    """

    questions: Path | None = None
    questions_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    images: Literal["skip", "refuse"] = "skip"
    synthetic: SyntheticCard | None = None
    tools: tuple[Tool, ...] = ("search", "browse", "python", "answer")
    program: SandboxLimits = SandboxLimits()
    isolation: Literal["auto", "namespaces", "audit_hook"] = "auto"
    remembers_programs: bool = True
    observation_characters: Annotated[int, Field(ge=200)] = 4000
    search: SearchCard | None = None
    relative_tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.001
    judge: EndpointJudgeCard | None = None

    @field_validator("tools")
    @classmethod
    def _can_answer(cls, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
        if "answer" not in tools:
            raise ValueError("must hold 'answer': without it no episode can be solved")
        return tools

    @model_validator(mode="after")
    def _has_one_source(self) -> "HleSettings":
        if (self.questions is None) == (self.synthetic is None):
            raise ValueError("give either 'questions' (a file) or 'synthetic' (questions made by code), and not both")
        wants_search = bool({"search", "browse"} & set(self.tools))
        if self.questions is not None and wants_search and self.search is None:
            raise ValueError(
                "tools 'search' and 'browse' need 'search', which says where; give it, or leave the tools out"
            )
        if self.synthetic is not None and self.search is not None:
            raise ValueError("the synthetic questions have a corpus of their own; leave 'search' out")
        return self
