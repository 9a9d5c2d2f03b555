from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.access_log.spool import Spool, complete, everything
from tests.support.disks import small_disks


def test_a_spool_is_complete_once_it_is_closed(tmp_path):
    spool = Spool(tmp_path, "a-0")
    spool.append(b"one\n")
    spool.append(b"two\nthree\n")
    assert spool.size == 14
    assert list(complete(tmp_path)) == []
    assert list(everything(tmp_path)) == [("a-0", b"one\ntwo\nthree\n")]
    spool.close()
    assert list(complete(tmp_path)) == [("a-0", b"one\ntwo\nthree\n")]
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_taken_to_the_end_stays(tmp_path):
    for name in ("a-0", "a-1"):
        spool = Spool(tmp_path, name)
        spool.append(b"one\n")
        spool.close()
    taken = complete(tmp_path)
    assert [next(taken)[0], next(taken)[0]] == ["a-0", "a-1"]
    taken.close()
    assert [name for name, _ in complete(tmp_path)] == ["a-1"]


def test_two_take_each_spool_once(tmp_path):
    for number in range(3):
        Spool(tmp_path, f"a-{number}").close()
    one, other = complete(tmp_path), complete(tmp_path)
    assert [next(one)[0], next(other)[0], next(one)[0]] == ["a-0", "a-1", "a-2"]
    assert [*one, *other] == []


@given(st.lists(st.sampled_from([b"one\n", b"twenty-two\n"])), st.data())
def test_a_line_that_was_cut_short_is_left_out(tmp_path_factory, lines, data):
    directory = tmp_path_factory.mktemp("spool")
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    (directory / "a-0.jsonl").write_bytes(whole[:cut])
    [(_, found)] = complete(directory)
    assert whole.startswith(found)
    assert found == b"" or found.endswith(b"\n")
    assert len(whole[:cut]) - len(found) < len(b"twenty-two\n")


def test_only_their_owner_reads_them(tmp_path):
    spool = Spool(tmp_path / "deep" / "spool", "a-0")
    file = tmp_path / "deep" / "spool" / "a-0.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    spool.close()


def test_a_spool_that_was_taken_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    import fcntl

    original, taken = fcntl.flock, []

    def lock(file, how):
        if how == fcntl.LOCK_EX and not taken:
            taken.append(True)
            (tmp_path / "a-0.jsonl").unlink()
        original(file, how)

    monkeypatch.setattr(fcntl, "flock", lock)
    spool = Spool(tmp_path, "a-0")
    spool.append(b"one\n")
    assert list(everything(tmp_path)) == [("a-0", b"one\n")]
    spool.close()


def test_a_full_disk_leaves_whole_lines_and_goes_on_when_there_is_room(tmp_path):
    with small_disks(tmp_path) as mount:
        disk = mount("size=64k")
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 40 * 1024)
        spool = Spool(disk, "a-0")
        line = b"y" * 1023 + b"\n"
        spool.append(line * 3)
        with pytest.raises(OSError, match="No space"):
            spool.append(line * 60)
        assert (disk / "a-0.jsonl").stat().st_size == spool.size == 3 * 1024
        ballast.unlink()
        spool.append(line * 20)
        spool.close()
        assert list(complete(disk)) == [("a-0", line * 23)]
