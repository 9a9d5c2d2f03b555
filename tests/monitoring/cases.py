"""Series in which each alert must fire, and series in which it must not, in promtool's notation, 15 s apart.

`0+8x60` begins at 0 and grows by 8 sixty times: for a counter, 8 events each 15 s.
"""

from __future__ import annotations

from dataclasses import dataclass, field

V1 = 'model="m",version="v1"'
CHAT = "/v1/chat/completions"


def series(name: str, values: str, *labels: str, of: str = V1) -> dict[str, str]:
    return {f"linnet_gateway_{name}{{{','.join(filter(None, [of, *labels]))}}}": values}


def requests(**statuses: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for status, values in statuses.items():
        found |= series("requests_total", values, f'route="{CHAT}"', f'status="{status.removeprefix("s")}"')
    return found


def duration(total: str, count: str, route: str = CHAT) -> dict[str, str]:
    return series("duration_seconds_sum", total, f'route="{route}"') | series(
        "duration_seconds_count", count, f'route="{route}"'
    )


def ttft(**buckets: str) -> dict[str, str]:
    bounds = {"one": "1.0", "goal": "2.5", "five": "5.0", "all": "+Inf"}
    found: dict[str, str] = {}
    for bucket, values in buckets.items():
        found |= series("ttft_seconds_bucket", values, f'le="{bounds[bucket]}"')
    return found


def streams(kind: str, values: str, begun: str) -> dict[str, str]:
    return series(f"{kind}_streams_total", values) | series("ttft_seconds_count", begun)


def gateways(*values: str) -> dict[str, str]:
    return {f'up{{job="linnet-gateway",instance="g{n}"}}': value for n, value in enumerate(values)}


def weights(*values: str, version: str = "v1") -> dict[str, str]:
    of = f'model="m",version="{version}"'
    found: dict[str, str] = {}
    for n, value in enumerate(values):
        found |= series("weight", value, f'instance="g{n}"', of=of)
    return found


def replicas(*values: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for n, value in enumerate(values):
        found |= series("replicas", value, f'instance="g{n}"')
    return found


def memory(used: str) -> dict[str, str]:
    return {'ray_node_mem_used{ip="10.0.0.7"}': used, 'ray_node_mem_total{ip="10.0.0.7"}': "1000x80"}


@dataclass(frozen=True)
class Fires:
    """`not_yet` is still silent, `fires` is not; the text is the description with its values.

    Groups are computed in any order: what an alert reads from another group may be one step late.
    """

    alert: str
    input: dict[str, str]
    fires: str
    text: str
    not_yet: str = ""
    labels: dict[str, str] = field(default_factory=lambda: {"model": "m", "version": "v1"})


@dataclass(frozen=True)
class Silent:
    """What an alert must not be taken in by."""

    alert: str
    why: str
    input: dict[str, str]
    at: tuple[str, ...] = ("6m", "10m", "14m")


FIRES = [
    Fires(
        "LinnetErrorsHigh",
        requests(s200="0+8x60", s500="0+1x60", s503="0+1x60"),
        "6m",
        "m:v1 answers 20% of its requests with a status 5xx.",
        "5m",
    ),
    Fires(
        "LinnetLatencyHigh",
        duration("0+90x60", "0+10x60") | duration("0+1x60", "0+1000x60", "/tokenize"),
        "6m",
        "m:v1 takes 9s on average from the request to the last byte.",
        "5m",
    ),
    Fires(
        "LinnetTtftHigh",
        ttft(one="0+50x60", goal="0+98x60", five="0+100x60", all="0+100x60"),
        "6m",
        "m:v1 begins 1 stream in 100 only after 3.75s; the goal is 2.5s.",
        "5m",
    ),
    Fires(
        "LinnetOverloaded",
        requests(s200="0+95x60", s429="0+5x60") | series("errors_total", "0+5x60", 'code="overloaded"'),
        "6m",
        "m:v1 refuses 5% of its requests with 429 `overloaded`.",
        "5m",
    ),
    Fires(
        "LinnetStreamsBroken",
        streams("broken", "0+1x60", "0+10x60"),
        "3m",
        "m:v1 broke 10% of the streams that it began in the last 10 minutes.",
        "2m",
    ),
    Fires(
        "LinnetStreamsContinued",
        streams("continued", "0+1x60", "0+10x60"),
        "6m",
        "m:v1 lost the replica of 10% of the streams that it began in the last 10 minutes.",
        "5m",
    ),
    Fires(
        "LinnetNoReplica",
        replicas("0x20", "0x20") | weights("100x20"),
        "1m",
        "m:v1 has traffic and 0 running replicas; its callers get 503.",
        "45s",
    ),
    Fires(
        "LinnetGatewayDown",
        gateways("1x20", "0x20"),
        "1m",
        "The gateway at g1 has not answered for a minute (up is 0).",
        "45s",
        {"job": "linnet-gateway", "instance": "g1"},
    ),
    Fires(
        "LinnetNoGateway",
        gateways("0x20", "0x20"),
        "1m",
        "No gateway has answered for a minute; 2 are known.",
        "45s",
        {},
    ),
    Fires("LinnetNoGateway", {}, "1m", "No gateway has answered for a minute; 0 are known.", "45s", {}),
    Fires(
        "LinnetGatewaysDisagree",
        weights("10x20", "50x20"),
        "2m",
        "The weights of m:v1 differ by 40 percentage points between gateways.",
        "1m45s",
    ),
    Fires(
        "LinnetLogRowsLost",
        series("log_rows_dropped_total", "0x40 8x80", 'instance="g0"', of=""),
        "15m",
        "The gateway at g0 lost about 8 rows of the access log in the last 10 minutes.",
        labels={"instance": "g0"},
    ),
    Fires(
        "LinnetHostMemoryHigh",
        memory("950x30"),
        "2m30s",
        "The host 10.0.0.7 uses 95% of its memory; at 95% Ray begins to kill workers.",
        "1m45s",
        {"ip": "10.0.0.7"},
    ),
    Fires(
        "LinnetRayUnseen", {}, "5m", "No process of Ray has answered for 5 minutes; 0 are known.", "4m45s", {}
    ),
]

SILENT = [
    Silent("LinnetErrorsHigh", "5% are too few", requests(s200="0+95x60", s500="0+5x60")),
    Silent(
        "LinnetErrorsHigh",
        "what callers do wrong is no fault",
        requests(s200="0+1x60", s400="0+9x60", s499="0+9x60"),
    ),
    Silent(
        "LinnetErrorsHigh",
        "one failure on a quiet endpoint",
        requests(s200="3x80", s500="0x20 1x60"),
        ("6m", "8m", "9m", "9m45s", "10m", "10m15s", "11m"),
    ),
    Silent("LinnetErrorsHigh", "nothing is asked", requests(s200="3x80", s500="3x80")),
    Silent("LinnetLatencyHigh", "7 s are allowed", duration("0+70x60", "0+10x60")),
    Silent("LinnetLatencyHigh", "nothing is asked", duration("90x80", "10x80")),
    Silent(
        "LinnetTtftHigh",
        "the goal is kept",
        ttft(one="0+50x60", goal="0+100x60", five="0+100x60", all="0+100x60"),
    ),
    Silent(
        "LinnetTtftHigh",
        "it was slow for 3 minutes",
        ttft(one="0+9x8 72+0x12 72+9x60", goal="0+9x80", five="0+9x80", all="0+9x80"),
    ),
    Silent(
        "LinnetOverloaded",
        "other errors are not",
        requests(s200="0+95x60", s503="0+5x60") | series("errors_total", "0+5x60", 'code="no_replica"'),
    ),
    Silent("LinnetStreamsBroken", "1 in 200", streams("broken", "0+1x60", "0+200x60")),
    Silent("LinnetStreamsBroken", "none began", streams("broken", "0x60", "5x60")),
    Silent("LinnetStreamsContinued", "1 in 50", streams("continued", "0+1x60", "0+50x60")),
    Silent("LinnetNoReplica", "nothing is sent to it", replicas("0x60") | weights("0x60")),
    Silent("LinnetNoReplica", "another gateway sees one", replicas("0x60", "1x60") | weights("100x60")),
    Silent("LinnetNoReplica", "it was gone for 30 s", replicas("1x23 0x1 1x60") | weights("100x80")),
    Silent("LinnetGatewayDown", "it answers", gateways("1x60")),
    Silent("LinnetNoGateway", "one of them answers", gateways("0x60", "1x60")),
    Silent(
        "LinnetGatewaysDisagree", "they agree", weights("10x60", "10x60") | weights("90x60", version="v2")
    ),
    Silent(
        "LinnetGatewaysDisagree", "they change one after the other", weights("10x23 50x60", "10x24 50x60")
    ),
    Silent(
        "LinnetLogRowsLost",
        "that was long ago",
        series("log_rows_dropped_total", "7x80", 'instance="g0"', of=""),
    ),
    Silent("LinnetHostMemoryHigh", "85% are allowed", memory("850x60")),
    Silent("LinnetHostMemoryHigh", "it was for a minute", memory("500x19 950x4 500x60")),
    Silent(
        "LinnetRayUnseen",
        "one host answers",
        {'up{job="ray",instance="a"}': "1x60", 'up{job="ray",instance="b"}': "0x60"},
    ),
]

# An endpoint that works, and that nobody asks for anything.
QUIET = (
    gateways("1x60", "1x60")
    | replicas("2x60", "2x60")
    | weights("100x60", "100x60")
    | requests(s200="3x60")
    | streams("broken", "0x60", "3x60")
    | streams("continued", "0x60", "3x60")
    | duration("9x60", "1x60")
    | memory("300x60")
    | {'up{job="ray",instance="a"}': "1x60"}
)
