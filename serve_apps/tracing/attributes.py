"""What a span says of a request, in the words of OpenTelemetry's conventions for HTTP and GenAI.

Never a prompt, an answer or a key; of a caller's own words only the x-request-id. Where the
conventions have no word, the name begins with `linnet.`.
"""

from __future__ import annotations

from serve_apps.gateway.directory import Replica
from serve_apps.gateway.observation import Observation
from serve_apps.gateway.routes import CHAT

Attributes = dict[str, str | int | float | bool | tuple[str, ...]]

_OPERATIONS = {
    CHAT: "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
_UNKNOWN_MODEL = "none"


def of_request(route: str) -> Attributes:
    """What is known as soon as a request has come."""
    found: Attributes = {"http.request.method": "POST", "http.route": route, "url.path": route}
    if (operation := _OPERATIONS.get(route)) is not None:
        found |= {"gen_ai.operation.name": operation, "gen_ai.provider.name": "vllm"}
    return found


def of_attempt(replica: Replica, host: str, port: int, sent_before: int, *, goes_on: bool) -> Attributes:
    """What is known of an attempt before it is made; `sent_before` counts those of the same request."""
    found: Attributes = {
        "http.request.method": "POST",
        "server.address": host,
        "server.port": port,
        "linnet.replica": replica.id,
    }
    if sent_before:
        found["http.request.resend_count"] = sent_before
    if goes_on:
        found["linnet.continues_stream"] = True
    return found


def of_end(row: Observation) -> Attributes:
    """What is known of a request when it is over."""
    found: Attributes = {
        "http.response.status_code": row.status,
        "linnet.request_id": row.request_id,
        "linnet.retries": row.retries,
        "linnet.continued": row.continued,
        "gen_ai.request.stream": row.stream,
    }
    if row.model != _UNKNOWN_MODEL:
        found |= {
            "gen_ai.request.model": row.model,
            "gen_ai.response.model": f"{row.model}:{row.version}",
            "linnet.version": row.version,
        }
    known = {
        "linnet.task": row.task,
        "error.type": error_type(row),
        "gen_ai.response.finish_reasons": (row.finish_reason,) if row.finish_reason else (),
    }
    found |= {name: value for name, value in known.items() if value}
    measured = {
        "gen_ai.usage.input_tokens": row.prompt_tokens,
        "gen_ai.usage.output_tokens": row.completion_tokens,
        "gen_ai.response.time_to_first_chunk": row.ttft_s,
    }
    return found | {name: value for name, value in measured.items() if value is not None}


def error_type(row: Observation) -> str:
    """The gateway's own code, else the status; empty where all went well."""
    return row.error_code or (str(row.status) if row.status >= 400 else "")


def failed(row: Observation) -> bool:
    """Whether the service is at fault: not where a caller asked for too much, or left."""
    return row.status >= 500 or (row.status < 400 and row.error_code != "")
