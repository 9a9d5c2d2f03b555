"""Make a checkout's thin .venv over the cached packages: seconds, and no second copy of 4 GB.

A .pth file adds the cached site-packages; a second one and a dist-info add this checkout, as
an editable install would. Launchers are copied with this environment's interpreter in their
first line, so that `ray`, `serve` and `pytest` see this checkout too.
"""

from __future__ import annotations

import shutil
import sys
import tomllib
import venv
from pathlib import Path

LAUNCHER = """#!{python}
import sys
from {module} import {attribute}
if __name__ == "__main__":
    sys.exit({attribute}())
"""


def main(base: Path, checkout: Path) -> None:
    """Build `checkout/.venv` over the environment `base`."""
    target = checkout / ".venv"
    shutil.rmtree(target, ignore_errors=True)
    venv.EnvBuilder(symlinks=True, with_pip=False).create(target)
    site = Path("lib") / f"python3.{sys.version_info.minor}" / "site-packages"
    cached = base / site
    (target / site / "linnet_packages.pth").write_text(f"import site; site.addsitedir({str(cached)!r})\n")
    (target / site / "linnet_checkout.pth").write_text(f"{checkout}\n")
    copy_launchers(base / "bin", target / "bin", target / "bin" / "python")
    install_metadata(checkout, target / site, target / "bin")


def copy_launchers(source: Path, target: Path, python: Path) -> None:
    """Copy every console script with `python` in its first line; link binaries."""
    for item in source.iterdir():
        destination = target / item.name
        own = destination.exists() or item.name.startswith(("python", "activate", "Activate"))
        if own or not item.is_file():
            continue
        head = item.read_bytes()[:2]
        if head != b"#!":
            destination.symlink_to(item)
            continue
        body = item.read_text()
        destination.write_text(body.replace(str(source.parent), str(target.parent)))
        first, _, rest = destination.read_text().partition("\n")
        if "python" in first:
            destination.write_text(f"#!{python}\n{rest}")
        destination.chmod(0o755)


def install_metadata(checkout: Path, site: Path, scripts: Path) -> None:
    """Write linnet's dist-info (name, version, entry points) and its own launchers."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    info = site / f"linnet-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    (info / "INSTALLER").write_text("linnet\n")
    (info / "RECORD").write_text("")
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    lines = []
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
    for name, value in project["scripts"].items():
        module, _, attribute = value.partition(":")
        launcher = scripts / name
        launcher.write_text(LAUNCHER.format(python=scripts / "python", module=module, attribute=attribute))
        launcher.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute())
