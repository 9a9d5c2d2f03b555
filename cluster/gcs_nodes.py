"""Which nodes Ray's GCS takes for alive; Ray's public ways to ask start a driver, or need its dashboard."""

from __future__ import annotations

_TIMEOUT_S = 10.0


def alive(address: str) -> set[str]:
    """Ids, in hex, of the live nodes of the cluster whose GCS is at `host:port`.

    Raises ConnectionError where it does not answer within ten seconds. Private API of Ray 2.60.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.gcs_pb2 import GcsNodeInfo
    from ray.exceptions import RayError

    try:
        nodes = GcsClient(address=address).get_all_node_info(timeout=_TIMEOUT_S)
    except (RayError, RuntimeError) as error:
        raise ConnectionError(f"the GCS at {address} does not answer: {error}") from error
    return {node.node_id.hex() for node in nodes.values() if node.state == GcsNodeInfo.ALIVE}
