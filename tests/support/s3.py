"""A real S3 API server on this machine, and the storage URL that leads to it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs


@contextmanager
def s3_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """`s3://bucket/prefix?…` of an empty bucket, for as long as the block lasts."""
    for name, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"{host}:{port}"
        maker = fs.S3FileSystem(
            endpoint_override=endpoint, scheme="http", region="us-east-1", allow_bucket_creation=True
        )
        # The server keeps what it holds for as long as this process lives: a fresh bucket is an empty one.
        bucket = f"bucket-{uuid.uuid4().hex}"
        maker.create_dir(bucket)
        yield f"s3://{bucket}/prefix?endpoint_override={endpoint}&scheme=http&region=us-east-1"
    finally:
        server.stop()
