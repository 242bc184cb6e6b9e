"""`mtrouter-rl serve`: a trained router behind HTTP, in front of an agent."""

import argparse
import logging

from mtrouter_rl.options import Command, Group, Option, Output, switch, values

_POLICY = "Who chooses"
_LIMITS = "Limits"


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.cards import load_pool_card
    from mtrouter_rl.serving.service.policy import PolicySettings
    from mtrouter_rl.serving.service.run import ServeRequest, serve
    from mtrouter_rl.serving.service.settings import ServiceSettings

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    policy = PolicySettings(
        **values(args, "canary", "default", "fallback", is_shadow="shadow", decide_within_s="decide_within")
    )
    settings = ServiceSettings(
        policy=policy,
        token_variables=tuple(args.token_variable),
        **values(args, "max_turns", "max_body_bytes", routed_name="name"),
        **values(args, session_budget_usd="session_budget", key_budget_usd="key_budget"),
    )
    request = ServeRequest(
        pool=None if args.pool is None else load_pool_card(args.pool),
        settings=settings,
        watches=not args.no_watch,
        **values(args, "store", "explore", "host", "port", "seed", router="policy"),
        **values(args, only_decides="only_decide", end_within_s="end_within", encoder_threads="encoder_threads"),
        **values(args, "torch_threads", "threads_per_text"),
    )

    def started(address: str) -> None:
        output.say(
            f"serves {args.policy} at {address}/v1 as '{args.name}'; log: {args.store}; ends with SIGTERM or Ctrl-C"
        )

    serve(request, started=started)


COMMAND = Command(
    name="serve",
    group=Group.LOGS,
    summary="put a trained router to work behind OpenAI's interface",
    description=(
        "Serves a router at /v1/chat/completions: an agent works with it by changing its base URL, and asks for the model "
        "'router'. Each call is decided, sent to the endpoint of the chosen model, booked and logged with its probability; "
        "'mtrouter-rl import served' makes a dataset of the log. /route, /outcome and /feedback are for gateways that call the "
        "models themselves. /healthz, /readyz, /metrics and /openapi.json say how it is. SIGHUP loads the router again."
    ),
    examples=(
        "runs/router --pool pool.yaml",
        "runs/router --pool pool.yaml --explore 0.1 --session-budget 0.50 --fallback small",
        "runs/router --pool pool.yaml --canary 0.1 --default big --store postgresql://router@127.0.0.1/served",
    ),
    options=(
        Option(
            "policy", "folder of a router, FOLDER@WEIGHT, or a policy such as random or single:MODEL", None, "ROUTER"
        ),
        Option("--pool", "pool card with the endpoints (default: the one saved with the router)", None, "NAME|PATH"),
        Option(
            "--store", "file of the log, or postgresql://USER@HOST/DATABASE", None, "FILE|URL", default="served.sqlite"
        ),
        Option("--host", "address to listen at", default="127.0.0.1", metavar="ADDRESS"),
        Option("--port", "port; 0 takes a free one", int, "N", default=8484),
        Option("--name", "model name by which clients ask for a choice", None, "NAME", default="router"),
        Option(
            "--token-variable",
            "environment variable with a bearer token that is let in; may be given several times (default: all are let in)",
            None,
            "NAME",
            action="append",
            default=[],
        ),
        switch("--only-decide", "decide and call nobody: /route without /v1/chat/completions"),
        switch("--no-watch", "do not load the router again when its files change"),
        Option(
            "--explore",
            "share of the turns whose model is drawn at random from those that may be called",
            float,
            "SHARE",
            default=0.0,
            section=_POLICY,
        ),
        Option(
            "--canary",
            "share of the sessions in which the router chooses",
            float,
            "SHARE",
            default=1.0,
            section=_POLICY,
        ),
        Option(
            "--shadow",
            "only log what the router would choose, and call the default",
            action="store_true",
            section=_POLICY,
        ),
        Option("--default", "model of the other sessions, and of --shadow", None, "MODEL", section=_POLICY),
        Option("--fallback", "model to call where the router fails or is late", None, "MODEL", section=_POLICY),
        Option("--decide-within", "when the router is late, seconds", float, "S", default=2.0, section=_POLICY),
        Option("--seed", "seed of the draws (default: one of the operating system)", int, "N", section=_POLICY),
        Option("--session-budget", "what a session may cost, USD", float, "USD", section=_LIMITS),
        Option("--key-budget", "what a bearer key may spend on a day (UTC), USD", float, "USD", section=_LIMITS),
        Option(
            "--max-turns",
            "turn limit that the router is shown (default: that of its training)",
            int,
            "N",
            section=_LIMITS,
        ),
        Option("--max-body-bytes", "longest request", int, "N", default=8 * 2**20, section=_LIMITS),
        Option(
            "--end-within",
            "how long calls under way may take at the end, seconds",
            float,
            "S",
            default=30.0,
            section=_LIMITS,
        ),
        Option("--encoder-threads", "texts that are encoded at once", int, "N", default=1, section=_LIMITS),
        Option(
            "--threads-per-text",
            "threads that share one text, 1 or 2, where the encoder can do that (minilm-bf16)",
            int,
            "N",
            default=2,
            section=_LIMITS,
        ),
        Option("--torch-threads", "threads of one product of matrices", int, "N", default=1, section=_LIMITS),
    ),
    run=_run,
)
