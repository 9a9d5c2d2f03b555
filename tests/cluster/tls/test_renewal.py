"""What is done with a changed pair, against a socket that answers as HAProxy does."""

from __future__ import annotations

import socket
import stat
import threading

import pytest

from cluster.errors import ConfigError, ConflictError
from cluster.tls import renewal
from cluster.tls.pair import KeyPair
from cluster.tls.renewal import install, renew


class Admin:
    """An admin socket; `heard` holds the commands."""

    def __init__(self, path, answers) -> None:
        self.path = str(path)
        self.heard: list[str] = []
        self._answers = answers
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for answer in self._answers:
            connection, _ = self._listener.accept()
            with connection:
                heard = b""
                while not heard.endswith(b"\n\n" if heard.startswith(b"set") else b"\n"):
                    heard += connection.recv(65536)
                self.heard.append(heard.decode())
                connection.sendall(answer)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def admin(tmp_path):
    made = []

    def start(*answers):
        made.append(Admin(tmp_path / "admin.sock", answers))
        return made[-1]

    yield start
    for one in made:
        one.close()


def replace(pair: KeyPair, by: KeyPair) -> None:
    pair.certfile.write_bytes(by.certfile.read_bytes())
    pair.keyfile.write_bytes(by.keyfile.read_bytes())


def test_a_pair_is_put_beside_for_its_owner_alone_and_once(authority, tmp_path):
    pair, pem = authority.issue("good"), tmp_path / "endpoint.pem"
    assert install(pair, pem)
    assert pem.read_bytes() == pair.read()
    assert stat.S_IMODE(pem.stat().st_mode) == 0o600
    assert not install(pair, pem)


def test_a_pair_that_does_not_match_changes_nothing_and_leaves_nothing(authority, tmp_path):
    pair, pem = authority.issue("good"), tmp_path / "endpoint.pem"
    install(pair, pem)
    before = pem.read_bytes()
    pair.keyfile.write_bytes(authority.issue("other").keyfile.read_bytes())
    with pytest.raises(ConfigError, match=str(pair.keyfile)):
        install(pair, pem)
    with pytest.raises(ConfigError, match=str(pair.keyfile)):
        renew(pair, pem, "/nowhere")
    assert pem.read_bytes() == before
    assert list(tmp_path.glob("endpoint.pem.*")) == []


def test_a_changed_pair_is_handed_over_and_then_kept(authority, tmp_path, admin):
    pair, pem = authority.issue("good"), tmp_path / "endpoint.pem"
    install(pair, pem)
    assert not renew(pair, pem, "/nowhere")
    replace(pair, authority.issue("new"))
    haproxy = admin(b"Transaction created for certificate x!\n\n", b"Committing x.\nSuccess!\n\n")
    assert renew(pair, pem, haproxy.path)
    assert haproxy.heard == [
        f"set ssl cert {pem} <<\n{pair.read().decode()}\n",
        f"commit ssl cert {pem}\n",
    ]
    assert pem.read_bytes() == pair.read()


@pytest.mark.parametrize("answers", [(b"No such file\n",), (b"Transaction created\n", b"Can't commit\n")])
def test_what_haproxy_refuses_is_tried_again_later(authority, tmp_path, admin, answers):
    pair, pem = authority.issue("good"), tmp_path / "endpoint.pem"
    install(pair, pem)
    before = pem.read_bytes()
    replace(pair, authority.issue("new"))
    with pytest.raises(ConflictError, match="did not take"):
        renew(pair, pem, admin(*answers).path)
    assert pem.read_bytes() == before
    assert list(tmp_path.glob("endpoint.pem.*")) == []


class EnoughError(Exception):
    """Ends a loop that has no end."""


def test_the_watch_tells_each_trouble_once_and_goes_on(authority, tmp_path, monkeypatch, capsys):
    pair, pem = authority.issue("good"), tmp_path / "endpoint.pem"
    install(pair, pem)
    key = pair.keyfile.read_bytes()
    steps = iter([pair.keyfile.unlink, int, int, lambda: pair.keyfile.write_bytes(key), int])

    def look(_seconds):
        step = next(steps, None)
        if step is None:
            raise EnoughError
        step()

    monkeypatch.setattr(renewal.time, "sleep", look)
    with pytest.raises(EnoughError):
        renewal.watch(pair, pem, "/nowhere")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "is not renewed" in told[0]
