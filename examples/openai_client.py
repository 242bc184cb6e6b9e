"""The official `openai` client with a router in front: which model is called is decided before every request.

`ask` is all that an agent needs. A scripted double answers here, so that the example needs no key: put your address and key in
its place, and `load_router("routers/mine")` in that of the rule. Run it with: python examples/openai_client.py
"""

from openai import OpenAI

from mtrouter_rl.agents.resolve import resolve_router
from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.serving import LiveRouter, RoutingSession
from mtrouter_rl.testing.fake_llm import FakeLLM, FakeSettings


def ask(client: OpenAI, session: RoutingSession, messages: list[dict[str, str]]) -> str:
    """One routed request: choose, call, record."""
    decision = session.choose(messages)
    reply = client.chat.completions.create(model=decision.model, messages=messages)  # type: ignore[arg-type]
    answer = reply.choices[0].message.content or ""
    cost_usd = session.record(reply.usage.model_dump(), answer=answer)  # type: ignore[union-attr]
    print(f"{decision.model} (probability {decision.probability:.2f}, {cost_usd:.6f} USD): {answer}")
    return answer


def main() -> None:
    """A conversation of four turns, within a budget."""
    pool = load_pool_card("corridor-three")
    router = LiveRouter(resolve_router("sticky:0.5", pool), pool, seed=1)
    script = ("Which file?", "I read it.", "It is fixed.", "Done.")
    with FakeLLM(FakeSettings(pool=pool, script=script)) as double:
        client = OpenAI(base_url=double.base_url, api_key="none", max_retries=0)
        session = RoutingSession(router, budget_usd=0.05, max_turns=8)
        messages = [{"role": "user", "content": "Fix the typo in the parser."}]
        for told in ("parser.py", "Go on.", "Is it done?", ""):
            answer = ask(client, session, messages)
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": told}]
        session.finish(score=1.0)
    print(f"{len(session.models)} calls for {session.spent_usd:.6f} USD (prices of a made-up pool)")


if __name__ == "__main__":
    main()
