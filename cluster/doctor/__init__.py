"""Is this machine fit? Each check states what it found and, where that is wrong, the mend.

Nothing here imports torch, vllm or transformers, and no check leaves anything behind.
"""

from __future__ import annotations

from cluster.config import Settings
from cluster.doctor import certificate, installation, machine, packages, ports
from cluster.doctor.check import Check, Status

__all__ = ["Check", "Status", "examine"]


def examine(settings: Settings) -> list[Check]:
    """Every check of this machine and of the installation that `settings` names."""
    return [
        *packages.examine(),
        *machine.examine(settings),
        *ports.examine(settings),
        *certificate.examine(settings),
        *installation.examine(settings),
    ]
