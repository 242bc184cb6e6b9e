"""Counters of a service, in the form of Prometheus. Labels hold names of models and kinds alone, never texts or keys."""

from typing import TYPE_CHECKING, Any

from mtrouter_rl.errors import MissingDependencyError

if TYPE_CHECKING:
    from mtrouter_rl.serving.service.rows import DecisionRow, Outcome

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.04, 0.075, 0.15, 0.3, 1.0, 3.0, 10.0, 30.0, 120.0)


class Metrics:
    """What is counted, with a registry of its own."""

    def __init__(self) -> None:
        """Make every counter.

        Raises:
            MissingDependencyError: If prometheus_client is not installed.
        """
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise MissingDependencyError(
                "the policy service needs prometheus_client, which is not installed; run: pip install 'mtrouter-rl[serve]'"
            ) from error
        self._registry = prometheus.CollectorRegistry()
        self._write: Any = prometheus.generate_latest
        self.content_type: str = prometheus.CONTENT_TYPE_LATEST
        given: dict[str, Any] = {"registry": self._registry}
        counter, histogram = prometheus.Counter, prometheus.Histogram
        self.requests = counter("mtrouter_requests", "Requests that were answered.", ("path", "status"), **given)
        self.decisions = counter("mtrouter_decisions", "Decisions.", ("model", "kind"), **given)
        self.spend = counter("mtrouter_spend_usd", "Money that was booked, USD.", ("model",), **given)
        self.errors = counter("mtrouter_errors", "Errors that clients were told.", ("code",), **given)
        self.fallbacks = counter("mtrouter_fallbacks", "Decisions of the fall-back.", **given)
        self.unknown = counter("mtrouter_unknown_costs", "Calls whose cost nobody knows, booked as the most.", **given)
        self.reloads = counter("mtrouter_reloads", "Routers that were loaded again.", ("result",), **given)
        self.decide_s = histogram(
            "mtrouter_decide_seconds", "From a request to its written decision.", buckets=_SECONDS, **given
        )
        self.upstream_s = histogram(
            "mtrouter_upstream_seconds", "Calls of models.", ("model",), buckets=_SECONDS, **given
        )
        self.request_s = histogram(
            "mtrouter_request_seconds",
            "From a request to its answer, streams to their end.",
            ("path",),
            buckets=_SECONDS,
            **given,
        )

    def count_decision(self, decision: "DecisionRow") -> None:
        """Count a decision."""
        self.decisions.labels(decision.model, decision.kind).inc()
        if decision.kind == "fallback":
            self.fallbacks.inc()

    def count_outcome(self, decision: "DecisionRow", outcome: "Outcome", booked_usd: float) -> None:
        """Count what came of a call."""
        self.spend.labels(decision.model).inc(booked_usd)
        if outcome.cost_usd is None and booked_usd:
            self.unknown.inc()
        if outcome.latency_s is not None:
            self.upstream_s.labels(decision.model).observe(outcome.latency_s)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        written: bytes = self._write(self._registry)
        return written
