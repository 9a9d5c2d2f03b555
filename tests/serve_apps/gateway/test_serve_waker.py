from __future__ import annotations

import asyncio
import inspect

from serve_apps.gateway import serve_waker
from serve_apps.gateway.serve_waker import Waker, by_handle
from serve_apps.replica import VersionReplica


def test_one_call_at_a_time_for_each_version(monkeypatch):
    monkeypatch.setattr(serve_waker, "_PAUSE_S", 0.0)
    calls = []

    async def scenario():
        release = asyncio.Event()

        async def call(model, version):
            calls.append((model, version))
            await release.wait()

        wake = Waker(call, timeout_s=20)
        for _ in range(3):
            wake("m", "v1")
            wake("m", "v2")
            await asyncio.sleep(0)
        assert calls == [("m", "v1"), ("m", "v2")]
        release.set()
        while len(calls) < 3:
            wake("m", "v1")
            await asyncio.sleep(0)
        await wake.stop()

    asyncio.run(scenario())


def test_a_call_that_fails_or_lasts_too_long_is_made_again(monkeypatch, caplog):
    monkeypatch.setattr(serve_waker, "_PAUSE_S", 0.0)

    async def scenario():
        ends = [RuntimeError("no such application"), None]
        calls = []

        async def call(_model, _version):
            calls.append(1)
            if ends and (error := ends.pop(0)):
                raise error
            await asyncio.Event().wait()

        wake = Waker(call, timeout_s=0.01)
        while len(calls) < 3:
            wake("m", "v1")
            await asyncio.sleep(0.001)
        await wake.stop()
        await wake.stop()

    asyncio.run(scenario())
    assert "no such application" in caplog.text
    assert "TimeoutError" in caplog.text


def test_the_call_goes_by_serves_public_handle_to_the_replicas_method(monkeypatch):
    from ray import serve

    asked = []

    class Method:
        async def remote(self):
            asked.append("wake")

    class Handle:
        wake = Method()

    def handle(name, app):
        asked.append((name, app))
        return Handle()

    assert list(inspect.signature(serve.get_deployment_handle).parameters)[:2] == [
        "deployment_name",
        "app_name",
    ]
    assert inspect.iscoroutinefunction(VersionReplica.wake)
    monkeypatch.setattr(serve, "get_deployment_handle", handle)
    asyncio.run(by_handle(lambda model, version: f"app-of-{model}-{version}")("m", "v1"))
    assert asked == [("m-v1", "app-of-m-v1"), "wake"]
