"""Each fault does to a host what it says, is taken back, and nothing of the hosts is left at the end."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from tests.hosts import faults
from tests.hosts.host import Host
from tests.hosts.network import Network
from tests.hosts.system import CHECKOUT

pytestmark = pytest.mark.slow

PYTHON = sys.executable
# Counts datagrams for as long as they come, up to a second after the last one.
COUNT = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
s.bind(("", 9000))
print("ready", flush=True)
s.settimeout(20)
n = 0
try:
    while s.recv(100):
        n += 1
        s.settimeout(1)
except TimeoutError:
    print(n)
"""
SEND = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(2000):
    s.sendto(b"x", ({!r}, 9000))
"""


def reaches(source: Host, target: Host) -> bool:
    """Whether a connection from one host to the other's sshd opens within two seconds."""
    probe = f"timeout 2 bash -c '</dev/tcp/{target.address}/22' && echo open || echo shut"
    return source.inside(probe).strip().endswith("open")


def reaches_again(source: Host, target: Host) -> bool:
    """Whether it does within 20 seconds: neighbours give up on a host that was silent for some seconds."""
    deadline = time.monotonic() + 20
    while not (found := reaches(source, target)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def python(code: str) -> str:
    return f"{PYTHON} - <<'END'\n{code}\nEND"


def arrived(source: Host, target: Host) -> int:
    """How many of 2000 datagrams from one host arrived at the other."""
    counter = target.start(python(COUNT))
    assert counter.stdout.readline() == "ready\n"
    source.inside(python(SEND.format(target.address)))
    return int(counter.communicate(timeout=60)[0])


def seconds_to_copy(source: Host, target: Host, kibibytes: int) -> float:
    """How long this much takes from the disk of one host to the other, by ssh between the two."""
    key = source.directory / "home" / "key"
    key.write_bytes(source.key.read_bytes())
    key.chmod(0o600)
    began = time.monotonic()
    source.inside(
        f"head -c {kibibytes}K /dev/urandom | ssh -F none -i ~root/key -o StrictHostKeyChecking=no"
        f" -o UserKnownHostsFile=/dev/null root@{target.name} 'cat > /tmp/copy'"
    )
    took = time.monotonic() - began
    assert (target.directory / "tmp" / "copy").stat().st_size == kibibytes * 1024
    return took


def test_hosts_are_apart_but_for_the_network_and_the_shared_directory(pair):
    left, right = pair["left"], pair["right"]
    assert left.run("hostname").stdout == "left\n"
    left.run("touch ~/mine /tmp/mine /dev/shm/mine /mnt/linnet/ours")
    assert (
        right.run("ls ~/mine /tmp/mine /dev/shm/mine /mnt/linnet/ours", check=False).stdout
        == "/mnt/linnet/ours\n"
    )
    assert (pair.shared / "ours").exists()
    assert "Read-only" in left.run("touch /etc/mine", check=False).stderr
    assert len(left.run("ps -e -o pid=").stdout.split()) < 10
    assert reaches(left, right)


def test_cut_silences_a_host_and_its_console_still_answers(pair):
    left, right = pair["left"], pair["right"]
    with faults.cut(right):
        assert not reaches(left, right)
        assert not reaches(right, left)
        assert reaches(right, right)
        assert right.inside("hostname") == "right\n"
    assert reaches_again(left, right)


def test_lost_packets_are_about_the_share_asked_for(pair):
    left, right = pair["left"], pair["right"]
    assert arrived(left, right) == 2000
    with faults.lose_packets(right, 0.3):
        # Five standard deviations of a fair draw either side.
        assert 2000 * 0.7 - 102 < arrived(left, right) < 2000 * 0.7 + 102
        assert arrived(right, left) == 2000
    assert arrived(left, right) == 2000


@pytest.mark.parametrize("narrowed", ["left", "right"])
def test_throttle_narrows_either_direction(pair, narrowed):
    left, right = pair["left"], pair["right"]
    with faults.throttle(pair[narrowed], 1_000_000):
        # 4.2 s by the rate, less what the first burst lets through.
        assert 3.9 < seconds_to_copy(left, right, 512) < 20
    assert seconds_to_copy(left, right, 512) < 3.5


def test_a_full_disk_refuses_to_write_until_there_is_room(pair):
    left = pair["left"]
    faults.small_disk(left, "/tmp/disk", 8)
    with faults.full_disk(left, "/tmp/disk"):
        assert "No space left on device" in left.run("echo x > /tmp/disk/file", check=False).stderr
        left.run("echo x > /tmp/elsewhere")
    left.run("echo x > /tmp/disk/file")


def test_a_disk_that_all_hosts_share_is_full_for_all_of_them():
    with Network.create(["left", "right"], disk_mebibytes=8) as network:
        left, right = network["left"], network["right"]
        with faults.full_disk(left, "/mnt/linnet/disk"):
            told = right.run("echo x > /mnt/linnet/disk/file", check=False).stderr
            assert "No space left on device" in told
            right.run("echo x > /mnt/linnet/elsewhere")
        right.run("echo x > /mnt/linnet/disk/file")
        assert left.run("cat /mnt/linnet/disk/file").stdout == "x\n"
        assert list((network.shared / "disk").iterdir()) == []


def test_a_disk_of_this_machine_is_not_filled(pair):
    with pytest.raises(ValueError, match="small_disk"), faults.full_disk(pair["left"], "/tmp"):
        pass


def test_a_frozen_process_does_nothing_and_then_goes_on(pair):
    left = pair["left"]
    left.run("(while sleep 0.02; do echo >> /tmp/beats; done) >/dev/null 2>&1 &")
    beats = left.directory / "tmp" / "beats"
    wait_for_growth(beats)
    with faults.freeze(left, "while sleep") as frozen:
        assert {process.status() for process in frozen} == {psutil.STATUS_STOPPED}
        time.sleep(0.2)
        before = beats.stat().st_size
        time.sleep(0.5)
        assert beats.stat().st_size == before
        assert left.run("echo alive").stdout == "alive\n"
    wait_for_growth(beats)


def test_a_frozen_host_accepts_connections_and_says_nothing(pair):
    left, right = pair["left"], pair["right"]
    with faults.freeze(right):
        assert reaches(left, right)
        with pytest.raises(subprocess.TimeoutExpired):
            right.run("true", timeout=2)
    right.run("true")


def test_freezing_nothing_is_an_error(pair):
    with pytest.raises(ValueError, match="no-such-program"), faults.freeze(pair["left"], "no-such-program"):
        pass


def test_a_kill_ends_every_process_and_a_boot_brings_back_the_disk(pair):
    left, right = pair["left"], pair["right"]
    left.run("echo kept > ~/file; for i in 1 2 3; do setsid nohup sleep 1000 >/dev/null 2>&1 & done; sleep 1")
    assert len(left.processes("^sleep 1000")) == 3
    before = left.processes()
    left.kill()
    assert not any(process.is_running() for process in before)
    assert left.processes() == []
    assert not reaches(right, left)
    with pytest.raises(RuntimeError, match="boot"):
        left.inside("true")
    pair.boot("left")
    assert left.run("cat ~/file").stdout == "kept\n"
    assert left.processes("^sleep 1000") == []
    assert reaches_again(right, left)


def test_a_fault_ends_with_its_host(pair):
    with faults.cut(pair["left"]), faults.lose_packets(pair["left"], 1.0):
        pair["left"].kill()
        pair.boot("left")
    assert reaches_again(pair["right"], pair["left"])


def traces() -> dict[str, object]:
    """What hosts could leave behind on this machine."""
    own = _network_of("self")
    strangers = {pid for pid in psutil.pids() if _network_of(pid) not in (own, None)}
    return {
        "links": sorted(p.name for p in Path("/sys/class/net").iterdir()),
        "mounts": sorted(Path("/proc/self/mounts").read_text().splitlines()),
        "directories": sorted(str(p) for p in Path(tempfile.gettempdir()).glob("linnet-hosts-*")),
        "processes": strangers,
    }


def _network_of(pid: int | str) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return None


def test_nothing_is_left_after_a_network_even_with_faults_on_it():
    before = traces()
    with Network.create(["left", "right"]) as network:
        assert traces()["processes"] != before["processes"]
        assert traces()["links"] == before["links"]
        network["left"].run("setsid nohup sleep 1000 >/dev/null 2>&1 &")
        faults.small_disk(network["left"], "/tmp/disk", 8)
        with faults.cut(network["right"]), faults.freeze(network["left"]):
            network["right"].kill()
    assert traces() == before


def test_hosts_end_with_the_process_that_made_them():
    program = (
        "import time\nfrom tests.hosts.network import Network\n"
        "with Network.create(['left']) as network:\n"
        "    network['left'].run('setsid nohup sleep 1000 >/dev/null 2>&1 & sleep 1')\n"
        "    print(network['left'].init, network.directory, flush=True)\n    time.sleep(600)\n"
    )
    maker = subprocess.Popen([PYTHON, "-c", program], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    try:
        init, directory = maker.stdout.readline().split()
        host = psutil.Process(int(init))
        everything = [host, *host.children(recursive=True)]
    finally:
        maker.kill()
        maker.communicate()
    assert len(everything) >= 2
    _, alive = psutil.wait_procs(everything, timeout=20)
    assert alive == []
    subprocess.run(["rm", "-r", directory], check=True)


def wait_for_growth(file: Path) -> None:
    deadline = time.monotonic() + 20
    size = file.stat().st_size if file.exists() else 0
    while not file.exists() or file.stat().st_size <= size:
        assert time.monotonic() < deadline
        time.sleep(0.02)
