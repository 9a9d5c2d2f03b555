"""The two cluster files fit Ray's schema, and differ only where a cloud does from one's own machines."""

import subprocess

import pytest
import yaml

from tests.support.markdown import CHECKOUT

OWN = CHECKOUT / "cluster.yaml"
CLOUD = CHECKOUT / "docs" / "cluster-cloud.yaml"


@pytest.fixture(scope="module")
def own() -> dict:
    return yaml.safe_load(OWN.read_text())


@pytest.fixture(scope="module")
def cloud() -> dict:
    return yaml.safe_load(CLOUD.read_text())


def test_the_cloud_file_fits_what_ray_up_takes(cloud):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(cloud)
    validate_config(prepared)
    broken = {**prepared["available_node_types"]["serving"], "min_worker": 1}
    with pytest.raises(Exception, match="min_worker"):
        validate_config(
            {**prepared, "available_node_types": {**prepared["available_node_types"], "serving": broken}}
        )


def test_the_cloud_files_bounds_hold_together(cloud):
    types = dict(cloud["available_node_types"])
    head = types.pop(cloud["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert sum(kind["max_workers"] for kind in types.values()) == cloud["max_workers"]
    assert all(kind["min_workers"] <= kind["max_workers"] for kind in types.values())
    spot = {name for name, kind in types.items() if "InstanceMarketOptions" in kind["node_config"]}
    assert spot == {"training"}
    assert types["serving"]["min_workers"] >= 1
    assert types["training"]["min_workers"] == 0


def test_both_files_set_the_same_variables(own, cloud):
    mine, theirs = (variables(tree["setup_commands"][0]) for tree in (own, cloud))
    assert len(mine) >= 8
    assert mine == theirs


@pytest.mark.parametrize("file", [OWN, CLOUD], ids=lambda file: file.name)
def test_a_bare_ray_is_the_checkouts_own(file, tmp_path):
    write = yaml.safe_load(file.read_text())["setup_commands"][0]
    launcher = tmp_path / "linnet" / ".venv" / "bin" / "ray"
    launcher.parent.mkdir(parents=True)
    launcher.touch(mode=0o755)
    done = subprocess.run(
        ["bash", "-euc", f"{write}\n. ~/linnet.env; command -v ray"],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{launcher}\n"


@pytest.mark.parametrize("file", [OWN, CLOUD], ids=lambda file: file.name)
def test_every_command_is_shell(file):
    tree = yaml.safe_load(file.read_text())
    commands = [command for key, value in tree.items() if key.endswith("_commands") for command in value]
    assert len(commands) >= 8
    for command in commands:
        done = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command


def test_the_shell_reads_the_environment_once_however_often_it_is_set_up(own, tmp_path):
    command = own["setup_commands"][1]
    for _ in range(2):
        subprocess.run(
            ["bash", "-ec", command], env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=True
        )
    assert (tmp_path / ".bashrc").read_text() == ". ~/linnet.env\n"


def test_both_files_start_ray_alike(own, cloud):
    assert own["worker_start_ray_commands"] == cloud["worker_start_ray_commands"]
    assert own["file_mounts"] == cloud["file_mounts"]
    # Listed machines have one type, which the newer autoscaler counts the head among.
    mine, theirs = own["head_start_ray_commands"][-1], cloud["head_start_ray_commands"][-1]
    assert mine.replace("RAY_enable_autoscaler_v2=0 ", "") == theirs


def test_a_head_keeps_its_tables_where_a_restart_finds_them(own, tmp_path):
    command = own["head_start_ray_commands"][-1].replace("python -m cluster.keeper --detach ray", "print_it")
    shown = "print_it() { echo $RAY_gcs_storage $RAY_gcs_storage_path $1; }; touch ~/linnet.env"
    done = subprocess.run(
        ["bash", "-euc", f"{shown}; {command}"],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"rocksdb {tmp_path}/linnet-gcs start\n"


def variables(command: str) -> list[str]:
    return [line.split()[1].partition("=")[0] for line in command.splitlines() if line.startswith("export ")]
