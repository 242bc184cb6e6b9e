"""An agent that knows a base URL and nothing else of routing: it plays the corridor against the service."""

from dataclasses import dataclass
from typing import cast

from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.envs.harness import Harness
from mtrouter_rl.errors import BackendError
from mtrouter_rl.pools.endpoint import Endpoint
from mtrouter_rl.pools.handover import as_raw
from mtrouter_rl.pools.remote.replies import read_reply
from mtrouter_rl.protocols import Reply, TextTask
from mtrouter_rl.records import EpisodeSpec, JsonValue, Message, TokenUsage
from mtrouter_rl.registry import TASK_FAMILIES
from mtrouter_rl.studies.local.cards import SESSION_HEADER

ROUTED = "router"
_NOTHING = TokenUsage(n_fresh=0, n_output=0)


@dataclass(frozen=True, kw_only=True)
class Played:
    """One episode of the agent.

    Attributes:
        session: Its name at the service.
        utility: What it reached, from -1 to 1.
        n_turns: Its calls.
    """

    session: str
    utility: float
    n_turns: int


class Agent:
    """Plays episodes through `base_url`, and tells the service what each was worth."""

    def __init__(self, config: EnvConfig, address: str) -> None:
        """Create it.

        Args:
            config: The environment.
            address: Of the service, without "/v1".
        """
        make_task = cast("type[TextTask]", TASK_FAMILIES.load(config.card.family))
        self._task: TextTask = make_task(config.card)  # type: ignore[call-arg]
        self._harness = Harness(config.card.harness, config.card.system_prompt, config.pool.token_counter)
        self._limits = config.limits
        self._service = Endpoint(base_url=address, timeout_s=300.0)

    def play(self, spec: EpisodeSpec, *, run: str) -> Played:
        """Play an episode.

        Args:
            spec: Which one.
            run: Tells two runs of the same episode apart.

        Raises:
            BackendError: If the service gives no answer.
        """
        session = f"{spec.task}|{spec.variation}|{spec.seed}|{run}"
        start = self._task.reset(spec.task, spec.variation, spec.seed)
        messages = self._harness.start(start.task_text, start.observation, ())
        score, n_turns, is_over = start.score, 0, False
        while not is_over and n_turns < self._limits.max_turns:
            said = self._asked(messages, session)
            read = self._harness.read(
                Reply(text=said.content, usage=_NOTHING, latency_s=0.0, served_model="", message=said)
            )
            step = self._task.step(read.action)
            messages += [said, *self._harness.answers(said, step.observation, ())]
            score, n_turns, is_over = step.score, n_turns + 1, step.ending != ""
        utility = score / self._task.max_score
        status = "completed" if is_over else "truncated"
        self._service.post("feedback", {"session": session, "score": utility, "status": status})
        return Played(session=session, utility=utility, n_turns=n_turns)

    def _asked(self, messages: list[Message], session: str) -> Message:
        raw, _ = as_raw(messages)
        body = {
            "model": ROUTED,
            "messages": [dict(one) for one in raw],
            "max_tokens": self._limits.max_output_tokens,
            "user": session,  # passed on to the double, which plays the episode that it names
        }
        received = self._service.send("POST", "v1/chat/completions", body, headers={SESSION_HEADER: session})
        said = read_reply(received.text, is_stream=False, problem=received.problem)
        if said.problem:
            raise BackendError(f"session '{session}': {said.problem}")
        return Message(role="assistant", content=said.text, raw=cast("dict[str, JsonValue]", dict(said.message)))
