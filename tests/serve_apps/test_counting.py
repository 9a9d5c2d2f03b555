import asyncio

from serve_apps.counting import CountRequests


def test_only_posts_are_counted_and_all_are_passed_on():
    counted, passed = [], []

    async def app(scope, _receive, _send):
        passed.append(scope["type"])

    middleware = CountRequests(app, lambda: counted.append(1))
    for scope in (
        {"type": "lifespan"},
        {"type": "http", "method": "GET"},
        {"type": "http", "method": "POST"},
        {"type": "websocket"},
    ):
        asyncio.run(middleware(scope, None, None))
    assert passed == ["lifespan", "http", "http", "websocket"]
    assert len(counted) == 1
