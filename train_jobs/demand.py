"""Room that a waiting run asks Ray for: an autoscaler starts nodes for what is asked, not for who looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup


class Demand:
    """CPUs for some workers. Nothing is asked for before the first `look`, and nothing after the block."""

    def __init__(self, workers: int, cpus: int) -> None:
        self._bundles: list[dict[str, float]] = [{"CPU": cpus}] * workers
        self._group: PlacementGroup | None = None

    def __enter__(self) -> Demand:
        return self

    def __exit__(self, *_: object) -> None:
        self._withdraw()

    def look(self) -> None:
        """Ask, unless that is done; what Ray has set aside since is given back, for the workers to take."""
        from ray.util import placement_group, placement_group_table

        if self._group is None:
            self._group = placement_group(self._bundles)
        elif placement_group_table(self._group)["state"] == "CREATED":
            self._withdraw()

    def _withdraw(self) -> None:
        from ray.util import remove_placement_group

        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None
