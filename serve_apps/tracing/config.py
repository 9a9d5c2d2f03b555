"""What the YAML's `args` say about traces."""

from __future__ import annotations

from enum import StrEnum
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from cluster.config import StrictModel


class Protocol(StrEnum):
    """How spans are sent, in OpenTelemetry's own words."""

    GRPC = "grpc"
    HTTP = "http/protobuf"


class TracesConfig(StrictModel):
    """Where a gateway's spans go, and of which share of the requests.

    `endpoint` is `http://collector:4317` for gRPC, and the whole URL, path included, for HTTP;
    with `https` the connection is encrypted. `sample` decides where the caller has not.
    """

    endpoint: str
    protocol: Protocol = Protocol.GRPC
    sample: float = Field(default=1.0, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _fits_the_protocol(self) -> Self:
        url = urlsplit(self.endpoint)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"`{self.endpoint}` is not an http or https URL")
        has_path = url.path not in ("", "/")
        if self.protocol is Protocol.GRPC and has_path:
            raise ValueError(
                f"`endpoint` for grpc has no path; for {self.endpoint} set protocol: http/protobuf"
            )
        if self.protocol is Protocol.HTTP and not has_path:
            raise ValueError(f"`endpoint` is the whole URL, such as {self.endpoint.rstrip('/')}/v1/traces")
        return self
