from __future__ import annotations

import json

import pytest

from cluster import head
from cluster.config import Settings
from cluster.tls import haproxy
from cluster.tls.pair import CERTFILE, KEYFILE, KeyPair


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(home=tmp_path, root=str(tmp_path), state_url=f"sqlite:///{tmp_path}/s.db")


def test_with_a_pair_ray_runs_our_haproxy_and_everything_knows_the_files(settings, tmp_path, monkeypatch):
    monkeypatch.setenv(haproxy.BINARY, "/usr/sbin/haproxy")
    pair = KeyPair(tmp_path / "c.pem", tmp_path / "k.pem")
    chosen = head.environment(settings, "token", "/tmp/x", pair)
    assert KeyPair.of(chosen) == pair
    assert chosen[haproxy.BINARY] == haproxy.launcher()


def test_without_a_pair_what_the_caller_has_set_for_one_does_not_count(settings, monkeypatch):
    for name, value in ((CERTFILE, "c"), (KEYFILE, "k"), (haproxy.BINARY, haproxy.launcher())):
        monkeypatch.setenv(name, value)
    chosen = head.environment(settings, "token", "/tmp/x")
    assert not {CERTFILE, KEYFILE, haproxy.BINARY} & set(chosen)
    monkeypatch.setenv(haproxy.BINARY, "/usr/sbin/haproxy")
    assert head.environment(settings, "token", "/tmp/x")[haproxy.BINARY] == "/usr/sbin/haproxy"


def test_the_tables_of_the_gcs_lie_in_the_clusters_own_directory_and_no_environment_says_so(settings):
    command = head.ray_command(1, 1, 2, 3, "/tmp/x")
    (told,) = [word.removeprefix("--system-config=") for word in command if "system-config" in word]
    assert json.loads(told) == {"gcs_storage": "rocksdb", "gcs_storage_path": "/tmp/x/gcs"}
    assert not [name for name in head.environment(settings, "token", "/tmp/x") if "gcs_storage" in name]


def test_the_command_returns_so_that_the_keeper_can_take_over():
    assert "--block" not in head.ray_command(1, 1, 2, 3, "/tmp/x")
