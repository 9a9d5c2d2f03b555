import socket

from serve_apps.gateway.connections import GONE_AFTER_S, UNTAKEN_S, watched_socket


def test_a_silent_host_is_given_up_within_seconds():
    made = watched_socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 1)))
    with made:
        idle, every, count = (
            made.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert idle + every * count == GONE_AFTER_S
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == UNTAKEN_S * 1000


def test_it_connects():
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = socket.getaddrinfo(*server.getsockname(), type=socket.SOCK_STREAM)[0]
        with watched_socket(found) as made:
            made.connect(found[-1])
            assert made.getpeername() == server.getsockname()
