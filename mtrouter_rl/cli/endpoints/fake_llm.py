"""`mtrouter-rl fake-llm`: simulated models over the real protocol, with faults on demand."""

import argparse
import threading
from contextlib import suppress
from pathlib import Path

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.options import Command, Group, Option, Output, shared
from mtrouter_rl.options.environment import POOL, env


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.cards import load_pool_card
    from mtrouter_rl.envs.factory import resolve_env
    from mtrouter_rl.testing.fake_llm import FakeLLM, FakeSettings, FaultPlan, write_twin

    faults = FaultPlan(
        shares=FaultPlan.shares_of(args.faults),
        seed=args.seed,
        retry_after_s=args.retry_after_s,
        timeout_s=args.timeout_s,
        drip_s=args.drip_s,
    )
    settings = FakeSettings(
        env=resolve_env(args.env, args.pool) if args.env else None,
        pool=load_pool_card(args.pool) if args.pool else None,
        script=tuple(args.script),
        n_tokens=args.answer_tokens,
        form=args.form,
        latency_s=args.latency_ms / 1000,
        faults=faults,
        cost_factor=args.cost_factor,
        n_copies=args.copies,
        ledger=args.ledger,
        port=args.port,
    )
    if settings.n_tokens < 0 or settings.latency_s < 0:
        raise InvalidConfigError("--answer-tokens and --latency-ms must be at least 0")
    if args.write_pool and settings.env is None:
        raise InvalidConfigError("--write-pool is for the simulated pool of an environment; give --env")
    with FakeLLM(settings) as fake:
        if args.write_pool and settings.env is not None:
            write_twin(args.write_pool, settings.env.pool, fake.base_url)
        names = list(fake.pool.model_names) if fake.pool else []
        output.show(f"listening: {fake.base_url} ({', '.join(names) or 'any model'})", {"base_url": fake.base_url})
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
        output.aside(f"{fake.ledger.n_requests} requests, billed {fake.ledger.billed_usd:.6f} USD (simulated)")


COMMAND = Command(
    name="fake-llm",
    group=Group.PLUG_IN,
    summary="serve simulated models as an endpoint of chat completions, with faults on demand",
    description=(
        "A test double of a provider, on 127.0.0.1: /v1/chat/completions (whole and streamed), /v1/models, /health. No "
        "language model is called and nothing is paid. A client that sends its episode in the header x-mtrouter-session, as "
        "TASK|VARIATION|SEED, gets what the simulated pool of --env would do there; see session_header in the pool card. "
        "Without the header the double answers from --script, with so many words, or with the last message. The ledger has "
        "a line for every request, with what it billed.\n"
        "Faults are drawn from session, turn and try: 429, 429_retry_after, 500, timeout, drip, broken_json, cut_stream, "
        "missing_usage, zero_usage, wrong_model, redirect, foreign_thinking; all=0.2 shares 20% out among them. It runs "
        "until Ctrl-C or SIGTERM."
    ),
    examples=(
        "--env corridor --write-pool doubles.yaml",
        "--env corridor --port 8090 --faults 500=0.1 429_retry_after=0.05 --ledger billed.jsonl",
    ),
    options=(
        env("environment whose simulated pool answers (default: scripted answers alone)"),
        POOL,
        Option("--port", "port on 127.0.0.1; 0 takes a free one", int, "P", default=8090),
        Option("--faults", "shares of calls that go wrong", nargs="+", default=[], metavar="KIND=SHARE"),
        shared.seed("the faults"),
        Option("--write-pool", "write the pool card that calls it there", Path, "FILE"),
        Option("--ledger", "file of what was billed, a line of JSON for every request", Path, "FILE"),
        Option(
            "--form",
            "simulated answers: the bare action, or words as long as billed",
            choices=("plain", "padded"),
            default="plain",
        ),
        Option("--copies", "copies of the text task that are kept; each may be a simulator", int, "N", default=4),
        Option("--script", "answers without a session, by turn", nargs="+", default=[], metavar="TEXT"),
        Option(
            "--answer-tokens", "length of every answer without a session; 0 for script or echo", int, "N", default=0
        ),
        Option("--latency-ms", "how long every answer waits", float, "MS", default=0.0),
        Option("--cost-factor", "tell the cost of every call, times this (default: tell none)", float, "X"),
        Option("--retry-after-s", "what 429_retry_after asks for", float, "S", default=1.0),
        Option("--timeout-s", "how long timeout says nothing", float, "S", default=30.0),
        Option("--drip-s", "how long drip takes for an answer", float, "S", default=1.0),
    ),
    run=_run,
)
