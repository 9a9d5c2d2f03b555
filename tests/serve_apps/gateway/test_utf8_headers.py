from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from ray.serve._private.http_util import validate_http_proxy_callback_return

from serve_apps.gateway import utf8_headers
from serve_apps.gateway.utf8_headers import in_utf8


@given(st.lists(st.tuples(st.binary(), st.binary())))
def test_every_value_can_be_decoded_and_what_could_be_stays(headers):
    recoded = in_utf8(headers)
    assert [name for name, _ in recoded] == [name for name, _ in headers]
    for (_, before), (_, after) in zip(headers, recoded, strict=True):
        assert after.decode() == before.decode("utf-8" if _is_utf8(before) else "latin-1")


def _is_utf8(value):
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_serve_takes_the_hook_and_passes_the_request_on():
    [middleware] = validate_http_proxy_callback_return(utf8_headers.middlewares())
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["headers"])

    wrapped = middleware.cls(app)
    scope = {"type": "http", "headers": [(b"x-request-id", b"\x80"), (b"accept", "é".encode())]}
    asyncio.run(wrapped(scope, None, None))
    assert seen == [[(b"x-request-id", "\x80".encode()), (b"accept", "é".encode())]]
