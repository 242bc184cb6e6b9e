import pytest

from mtrouter_rl.cards import HarnessCard
from mtrouter_rl.cards.pool import TokenCounter
from mtrouter_rl.envs.harness import MALFORMED, Harness
from mtrouter_rl.envs.routing import MAX_WASTED_CALLS
from mtrouter_rl.errors import BackendError, CardError, InvalidConfigError, MaskedActionError
from mtrouter_rl.protocols import Reply, TaskStep, WastedCallError
from mtrouter_rl.records import EpisodeSpec, Message, TokenUsage, ToolCall
from mtrouter_rl.rollout import run_episode
from mtrouter_rl.testing import ScriptedBackend, ScriptedTask, plain_reply

ONE_EACH = TokenCounter(kind="characters", characters_per_token=1, tokens_per_message=0)
SPEC = EpisodeSpec(task="script", variation=0, seed=0, split="train")


def reply_of(text, *, calls=(), n_output=1, n_fresh=10, model="cheap"):
    message = Message(role="assistant", content=text, tool_calls=tuple(calls)) if calls else None
    usage = TokenUsage(n_fresh=n_fresh, n_output=n_output)
    return Reply(text=text, usage=usage, latency_s=1.0, served_model=model, message=message)


def act(arguments, name="act", call_id="c1"):
    return ToolCall(id=call_id, name=name, arguments=arguments)


@pytest.mark.parametrize(
    ("form", "reply", "action", "problem"),
    [
        ("plain", reply_of(" open door "), " open door ", ""),
        ("fenced", reply_of("I go.\n```\nopen door\n```\n"), "open door", ""),
        ("fenced", reply_of("```bash\nls -l\n```"), "ls -l", ""),
        ("fenced", reply_of("open door"), "", "it holds no actions, and one is needed"),
        ("fenced", reply_of("```\na\n```\n```\nb\n```"), "", "it holds 2 actions, and one is needed"),
        ("fenced", reply_of("```\n \n```"), "", "its action is empty"),
        ("tool", reply_of("", calls=[act('{"action": "go"}')]), "go", ""),
        ("tool", reply_of("go"), "", "it holds no actions, and one is needed"),
        ("tool", reply_of("", calls=[act("{broken")]), "", "its action is empty"),
        ("tool", reply_of("", calls=[act("[" * 100_000)]), "", "its action is empty"),
        ("tool", reply_of("", calls=[act('{"action": "go"}', name="other")]), "", "its action is empty"),
        ("tool", reply_of("", calls=[act("{}"), act("{}", call_id="c2")]), "", "it holds 2 actions, and one is needed"),
    ],
)
def test_where_the_action_stands(form, reply, action, problem):
    read = Harness(HarnessCard(action=form), "", ONE_EACH).read(reply)
    assert (read.action, read.problem) == (action, problem)


def test_plain_messages_are_what_they_always_were():
    harness = Harness(None, "Be brief.", ONE_EACH)
    assert harness.start("Boil.", "A room.", ()) == [
        Message(role="system", content="Be brief."),
        Message(role="user", content="Boil.\n\nA room."),
    ]
    said = harness.said(reply_of("look"), "cheap")
    assert harness.answers(said, "A door.", ()) == [Message(role="user", content="A door.")]


@pytest.mark.parametrize(
    ("field", "template", "message"),
    [
        (
            "turn",
            "{{ observaton }}",
            r"harness\.turn: 'observaton' is undefined; the template may use observation, actions",
        ),
        ("turn", "{{ observation.__class__.mro() }}", r"harness\.turn: .*unsafe"),
        ("turn", "{{ observation + 1 }}", r"harness\.turn: "),
    ],
)
def test_a_template_that_asks_for_what_there_is_not(field, template, message):
    harness = Harness(HarnessCard(**{field: template}), "", ONE_EACH)
    with pytest.raises(CardError, match=message):
        harness.answers(Message(role="assistant", content="x"), "A door.", ())


def test_a_template_that_cannot_be_compiled_is_named_at_the_start():
    with pytest.raises(CardError, match=r"harness\.start: .*correct the template"):
        Harness(HarnessCard(start="{% if %}"), "", ONE_EACH)


def test_actions_are_listed_where_the_card_says_so(env_of):
    class Listing(ScriptedTask):
        def possible_actions(self):
            return (f"go {len(self.actions)}", "wait")

    card = HarnessCard(lists_actions=True, turn="{{ observation }} May: {{ actions | join(', ') }}.")
    seen = []

    def answer(call):
        seen.append(call.messages[-1].content)
        return plain_reply(call)

    env = env_of(task=Listing([TaskStep(observation="ok", score=0.0)]), answer=answer, harness=card)
    env.reset(seed=0)
    env.step(0)
    env.step(0)
    assert seen[1] == "ok May: go 1, wait."
    with pytest.raises(InvalidConfigError, match=r"lists_actions is true, but ScriptedTask has no possible_actions"):
        env_of(harness=card)


def conversation(n_turns, size=50):
    messages = [Message(role="system", content="s" * 10), Message(role="user", content="t" * 10)]
    for turn in range(n_turns):
        messages.append(Message(role="assistant", content=f"a{turn}" * 5))
        messages.append(Message(role="user", content=f"{turn}" * size))
    return messages


def test_what_does_not_fit_is_left_out_by_the_rule():
    harness = Harness(HarnessCard(keeps_turns=1), "", ONE_EACH)
    whole = conversation(3, size=100)
    n_whole = harness.count(whole)
    kept, n_tokens = harness.fit(whole, n_most=n_whole)
    assert (kept, n_tokens) == (whole, n_whole)
    kept, n_tokens = harness.fit(whole, n_most=n_whole - 1)
    assert kept[3].content == "[an observation of 100 characters is left out here]"
    assert kept[:3] + kept[4:] == whole[:3] + whole[4:]
    assert n_tokens == harness.count(kept) == n_whole - 100 + len(kept[3].content)
    kept, n_tokens = harness.fit(whole, n_most=n_whole - 120)
    assert kept[1].content.endswith("\n\n[1 earlier turns are left out here]")
    assert [one.content for one in kept[2:]] == [
        whole[4].content,
        "[an observation of 100 characters is left out here]",
    ] + [one.content for one in whole[6:]]
    kept, n_tokens = harness.fit(whole, n_most=1)
    assert kept[-2:] == whole[-2:]
    assert len(kept) == 4
    assert n_tokens == harness.count(kept) > 1


def test_without_a_card_nothing_is_left_out():
    whole = conversation(3)
    assert Harness(None, "", ONE_EACH).fit(whole, n_most=1)[0] == whole


def test_a_small_window_is_shown_less_and_masked_when_that_is_not_enough(env_of, pool_of):
    prices = {"input": 1.0, "cached_input": 1.0, "output": 2.0}
    pool = pool_of(("small", prices, 260, 10), ("large", prices, 100_000, 20))
    long = TaskStep(observation="x" * 150, score=0.0)
    backend = ScriptedBackend(pool=pool, answer=plain_reply)
    env = env_of(
        task=ScriptedTask([long, long, TaskStep(observation="y" * 240, score=0.0)]),
        pool=pool,
        harness=HarnessCard(keeps_turns=1),
        answer=backend.answer,
    )
    env.reset(seed=0)
    observation, *_ = env.step(1)
    assert observation["action_mask"].tolist() == [1, 1]
    observation, *_ = env.step(1)
    assert observation["action_mask"].tolist() == [1, 1], "the first observation can be left out"
    observation, _, _, _, info = env.step(0)
    assert info["usage"].n_prompt <= 250
    assert observation["action_mask"].tolist() == [0, 1], "the last observation always stays"
    with pytest.raises(MaskedActionError, match="do not fit its context of 260"):
        env.step(0)


def test_a_reply_without_an_action_is_answered_once_and_paid(env_of):
    replies = iter(
        [reply_of("hm", n_output=2), reply_of("```\ngo\n```", n_output=3), reply_of("no"), reply_of("never")]
    )
    task = ScriptedTask([TaskStep(observation="ok", score=50.0)])
    calls = []

    def answer(call):
        calls.append(call)
        return next(replies)

    env = env_of(task=task, answer=answer, harness=HarnessCard(action="fenced"))
    env.reset(seed=0)
    _, _, _, _, info = env.step(0)
    assert task.actions == ["go"]
    assert (
        calls[1].messages[-1].content
        == "Your reply cannot be used: it holds no actions, and one is needed. Reply again."
    )
    assert info["usage"] == TokenUsage(n_fresh=20, n_output=5)
    assert info["cost_usd"] == pytest.approx(20e-6 + 5 * 2e-6)
    assert (info["error"], info["action_text"], info["hidden"]) == ("", "go", {"n_calls": 2})
    _, _, _, _, info = env.step(0)
    assert task.actions == ["go"], "the task does not move"
    assert (info["error"], info["action_text"], info["utility_gain"]) == (MALFORMED, "never", 0.0)
    assert info["utility"] == 0.5
    assert info["hidden"]["n_calls"] == 2


def test_no_reminder_is_sent_that_the_budget_does_not_hold(env_of):
    n_calls = 0

    def answer(call):
        nonlocal n_calls
        n_calls += 1
        return reply_of("hm", n_output=100, n_fresh=call.n_prompt)

    env = env_of(answer=answer, harness=HarnessCard(action="fenced"), budget_usd=0.0003)
    env.reset(seed=0)
    _, _, _, truncated, info = env.step(0)
    assert n_calls == 1
    assert info["error"] == MALFORMED
    assert truncated
    assert env.budget_left_usd == pytest.approx(0.0003 - info["cost_usd"])


def test_tool_calls_are_answered_by_their_ids(env_of):
    seen = []

    def answer(call):
        seen.append(call.messages)
        return reply_of("", calls=[act('{"action": "go"}', call_id=f"id{len(seen)}")])

    env = env_of(answer=answer, harness=HarnessCard(action="tool"))
    env.reset(seed=0)
    env.step(0)
    env.step(0)
    assert [(one.role, one.tool_call_id, one.author) for one in seen[1][-2:]] == [
        ("assistant", "", "cheap"),
        ("tool", "id1", ""),
    ]


# --- calls that are billed and cannot be used


def wasteful(n_wasted):
    left = [n_wasted]

    def answer(call):
        if left[0]:
            left[0] -= 1
            raise WastedCallError("the stream was cut", usage=TokenUsage(n_fresh=7, n_output=1), served_model="cheap")
        return plain_reply(call)

    return answer


def test_a_call_that_was_billed_in_vain_is_booked_in_its_turn(env_of):
    env = env_of(answer=wasteful(2))
    env.reset(seed=0)
    _, _, _, _, info = env.step(0)
    assert info["usage"].n_output == 3
    assert info["cost_usd"] == pytest.approx(env.limits.budget_usd - env.budget_left_usd)
    assert info["hidden"] == {"n_calls": 3, "wasted_calls": ["the stream was cut"] * 2}


class First:
    name = "first"
    model_names = ("cheap", "dear")

    def action_probabilities(self, observations):
        import numpy as np

        return np.array([[1.0, 0.0]] * len(observations))


def test_an_episode_whose_calls_are_all_wasted_fails_with_its_money_told(env_of):
    env = env_of(answer=wasteful(MAX_WASTED_CALLS + 1))
    episode = run_episode(env, First(), SPEC).episode
    assert episode.status == "failed"
    spent = 3 * (7e-6 + 2e-6)
    assert episode.status_detail.endswith(f"(and {spent:.6f} USD were spent on a call that has no turn)")


def test_what_was_wasted_is_held_against_the_budget(env_of):
    env = env_of(answer=wasteful(2), budget_usd=0.000235)
    env.reset(seed=0)
    with pytest.raises(BackendError, match="the stream was cut"):
        env.step(0)


# --- backends that rule models out


class Selective(ScriptedBackend):
    def not_callable(self, messages):
        return {"cheap": "its circuit is open"} if len(messages) > 2 else {}


def test_a_backend_rules_models_out_by_turn(env_of, pool_of):
    env = env_of()
    env._backend = env._selective = Selective(pool=env.pool, answer=plain_reply)
    observation, _ = env.reset(seed=0)
    assert observation["action_mask"].tolist() == [1, 1]
    observation, *_ = env.step(0)
    assert observation["action_mask"].tolist() == [0, 1]
    with pytest.raises(MaskedActionError, match="'cheap' is not allowed at turn 1: its circuit is open"):
        env.step(0)
