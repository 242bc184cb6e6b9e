"""The service's own description of its paths, as OpenAPI."""

from collections.abc import Mapping

from mtrouter_rl.cards.pool import PoolCard

_TEXT: Mapping[str, object] = {"type": "string"}
_NUMBER: Mapping[str, object] = {"type": "number"}
_WHOLE: Mapping[str, object] = {"type": "integer", "minimum": 0}
_FREE: Mapping[str, object] = {"type": "object", "additionalProperties": True}


def schema(routed_name: str, pool: PoolCard) -> dict[str, object]:
    """The description, with the names of the models."""
    from mtrouter_rl import __version__

    models = {"type": "string", "enum": [routed_name, *pool.model_names]}
    paths = {
        "/v1/chat/completions": _post(
            "OpenAI's chat completions; the model is chosen",
            _object(
                {"model": models, "messages": _list(_FREE), "stream": {"type": "boolean"}, "tools": _list(_FREE)},
                required=("model", "messages"),
                closed=False,
            ),
            _FREE,
            "400 401 402 404 408 409 413 429 502 503 504",
        ),
        "/v1/models": {"get": _operation("The routed name and the models of the pool", _FREE, "401")},
        "/route": _post("Choose a model, without calling it", _route(pool), _decision(), "400 401 402 408 409 413 503"),
        "/outcome": _post(
            "Say what came of a call that /route chose", _outcome(), _FREE, "400 401 404 408 409 413 503"
        ),
        "/feedback": _post("Score or status of a session", _feedback(), _FREE, "400 401 404 408 413 503"),
        "/reload": _post(
            "Load the router again; the old one stays if it cannot be loaded", _FREE, _FREE, "401 403 409"
        ),
        "/healthz": {"get": _operation("Whether the process runs", _FREE, "")},
        "/readyz": {"get": _operation("Whether it can decide and write", _FREE, "503")},
        "/metrics": {"get": _operation("Counters in Prometheus' form", _TEXT, "", kind="text/plain")},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "mtrouter-rl policy service", "version": __version__},
        "paths": paths,
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        "security": [{"bearer": []}, {}],
    }


def _route(pool: PoolCard) -> Mapping[str, object]:
    names = {"type": "string", "enum": list(pool.model_names)}
    priced = _object({"model": names, "cached_tokens": _WHOLE, "max_cost_usd": _NUMBER}, required=("model",))
    return _object(
        {
            "messages": _list(_FREE),
            "session": _TEXT,
            "request_id": _TEXT,
            "task": _TEXT,
            "candidates": _list({"oneOf": [names, priced]}),
            "max_output_tokens": _WHOLE,
            "budget_usd": _NUMBER,
            "tools": _list(_FREE),
        },
        required=("messages",),
    )


def _decision() -> Mapping[str, object]:
    numbers = {"type": ["object", "null"], "additionalProperties": {"type": ["number", "null"]}}
    return _object(
        {
            "decision_id": _TEXT,
            "session": _TEXT,
            "turn": _WHOLE,
            "model": _TEXT,
            "propensity": _NUMBER,
            "kind": {"type": "string", "enum": ["router", "default", "shadow", "fallback", "asked"]},
            "max_cost_usd": _NUMBER,
            "budget_left_usd": {"type": ["number", "null"]},
            "q_values": numbers,
            "expected_cost_usd": numbers,
            "not_allowed": {"type": "object", "additionalProperties": _TEXT},
            "probabilities": numbers,
            "candidates": _list(_TEXT),
            "reason": _TEXT,
            "router": _TEXT,
        },
        required=("decision_id", "session", "turn", "model", "propensity"),
    )


def _outcome() -> Mapping[str, object]:
    return _object(
        {
            "decision_id": _TEXT,
            "usage": _FREE,
            "cost_usd": _NUMBER,
            "answer": {"oneOf": [_TEXT, _FREE]},
            "error": _TEXT,
            "latency_s": _NUMBER,
        },
        required=("decision_id",),
    )


def _feedback() -> Mapping[str, object]:
    statuses = {"type": "string", "enum": ["completed", "truncated", "failed"]}
    score = {"type": "number", "minimum": -1, "maximum": 1}
    return _object({"session": _TEXT, "score": score, "status": statuses, "detail": _TEXT}, required=())


def _object(
    properties: Mapping[str, object], *, required: tuple[str, ...], closed: bool = True
) -> Mapping[str, object]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": not closed}


def _list(items: Mapping[str, object]) -> Mapping[str, object]:
    return {"type": "array", "items": items}


def _post(summary: str, body: Mapping[str, object], answer: Mapping[str, object], errors: str) -> Mapping[str, object]:
    content = {"required": True, "content": {"application/json": {"schema": body}}}
    return {"post": {**_operation(summary, answer, errors), "requestBody": content}}


def _operation(
    summary: str, answer: Mapping[str, object], errors: str, *, kind: str = "application/json"
) -> dict[str, object]:
    error = _object({"error": _FREE}, required=("error",))
    told = {"description": "an error in OpenAI's form", "content": {"application/json": {"schema": error}}}
    fine = {"description": "done", "content": {kind: {"schema": answer}}}
    return {"summary": summary, "responses": {"200": fine, **dict.fromkeys(errors.split(), told)}}
