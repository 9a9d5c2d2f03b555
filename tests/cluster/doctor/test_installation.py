import socket

import pytest

from cluster.config import Settings
from cluster.doctor import examine
from cluster.doctor.installation import check_ray, check_root, check_state
from cluster.state.database import open_database


def test_a_root_that_can_be_written_is_left_as_it_was(tmp_path):
    (tmp_path / "kept").write_text("x")
    assert check_root(str(tmp_path)).status == "pass"
    assert [item.name for item in tmp_path.iterdir()] == ["kept"]


def test_a_root_that_is_not_there_yet_is_not_made(tmp_path):
    assert check_root(str(tmp_path / "a" / "b")).status == "pass"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("root", ["{tmp}/file", "{tmp}/file/below", "ftp://host/x"])
def test_a_root_that_cannot_be_written_fails_with_a_mend(tmp_path, root):
    (tmp_path / "file").write_text("x")
    check = check_root(root.format(tmp=tmp_path))
    assert check.status == "fail"
    assert "LINNET_ROOT" in check.mend
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_state_database_that_answers(tmp_path):
    url = f"sqlite:///{tmp_path / 'linnet.db'}"
    assert "first use" in check_state(url).found
    assert list(tmp_path.iterdir()) == []
    open_database(url)
    assert check_state(url).found.endswith("answers")


@pytest.mark.parametrize("url", ["sqlite:///{tmp}/broken.db", "nonsense", "oracle://u:secret@host/db"])
def test_a_state_database_that_does_not_answer(tmp_path, url):
    (tmp_path / "broken.db").write_text("no database, only text " * 50)
    check = check_state(url.format(tmp=tmp_path))
    assert check.status == "fail"
    assert "LINNET_STATE_URL" in check.mend
    assert "secret" not in check.found


def test_ray():
    assert check_ray(None).status == "pass"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert check_ray(address).status == "pass"
        assert check_ray(f"ray://{address}").status == "pass"
    assert check_ray(address).status == "fail"
    assert check_ray("auto").status == "warn"
    assert check_ray("host:many").status == "warn"


def test_every_part_of_the_machine_is_looked_at(tmp_path):
    settings = Settings(home=tmp_path, root=str(tmp_path), state_url=f"sqlite:///{tmp_path}/state.db")
    checks = examine(settings)
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    for expected in ("Python", "packages", "cores", "memory", "shared memory", "storage root", "Ray"):
        assert expected in names
    assert all(bool(check.mend) == (check.status != "pass") for check in checks)
    assert list(tmp_path.iterdir()) == []
