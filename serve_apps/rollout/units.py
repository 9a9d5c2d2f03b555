"""Quantities that people write with their unit, because a bare number does not say what it counts.

`Duration` is read as a timedelta, `Latency` as seconds, `Rate` and `Points` as shares of 1. Each is written
back as text, so that what is stored reads again to the same value, bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_WRITTEN = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[^\s0-9.].*)?")
_MICROSECOND = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class _Quantity:
    """One kind of quantity; `units` from the largest to the smallest, each with what one of it is worth."""

    what: str
    units: Mapping[str, Decimal]
    example: str
    largest: str

    def parse(self, given: object) -> Decimal:
        """The value of `2%` or `800ms`. Raises ValueError, which pydantic tells with the key."""
        if isinstance(given, bool) or not isinstance(given, (str, int, float)):
            raise ValueError(f"a {self.what} is text such as {self.example}")
        found = _WRITTEN.fullmatch(str(given).strip())
        units = ", ".join(self.units)
        if isinstance(given, (int, float)) or (found is not None and found["unit"] is None):
            raise ValueError(f"the unit is missing ({units}); write it such as {self.example}")
        if found is None or found["unit"] not in self.units:
            raise ValueError(f"this is no {self.what} in {units}; write it such as {self.example}")
        value = self._worth(found)
        if value > self._limit():
            raise ValueError(f"this is more than {self.largest}")
        return value

    def write(self, value: Decimal) -> str:
        """The value in the largest unit that needs no fraction, else in the one that is worth 1."""
        whole = (unit for unit, worth in self.units.items() if value % worth == 0)
        unit = next(whole, None) or min(self.units, key=lambda name: abs(self.units[name] - 1))
        return f"{_plain(value / self.units[unit])}{' ' if len(unit) > 2 else ''}{unit}"

    def _limit(self) -> Decimal:
        found = _WRITTEN.fullmatch(self.largest)
        assert found is not None
        return self._worth(found)

    def _worth(self, found: re.Match[str]) -> Decimal:
        return Decimal(found["number"]) * self.units[found["unit"]]


def _plain(number: Decimal) -> str:
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


_TIMES = {name: Decimal(worth) for name, worth in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))}
_MILLISECOND = {"ms": Decimal("0.001")}

_DURATION = _Quantity("duration", _TIMES | _MILLISECOND, "30s, 10m or 24h", "3650d")
_LATENCY = _Quantity("latency", {"m": _TIMES["m"], "s": _TIMES["s"]} | _MILLISECOND, "800ms or 1.5s", "1440m")
_RATE = _Quantity("rate", {"%": Decimal("0.01")}, "2% or 0.5%", "100%")
_POINT = Decimal("0.01")
_TOKENS = _Quantity("number of tokens", {"tokens": Decimal(1)}, "200 tokens", "100000000 tokens")
_PACE = _Quantity("pace", {"tokens/s": Decimal(1)}, "20 tokens/s", "100000000 tokens/s")
_BINARY = {name: Decimal(2**power) for name, power in (("TiB", 40), ("GiB", 30), ("MiB", 20))}
_MEMORY = _Quantity("amount of memory", _BINARY, "12 GiB or 800 MiB", "1024 TiB")
_POINTS = _Quantity("number", {"points": _POINT, "point": _POINT}, "5 points", "100 points")


def _read_duration(given: object) -> timedelta:
    if isinstance(given, timedelta):
        return given
    return timedelta(microseconds=int(_DURATION.parse(given) / _MICROSECOND))


def _write_duration(value: timedelta) -> str:
    return _DURATION.write((value // timedelta(microseconds=1)) * _MICROSECOND)


def _exact(value: float) -> Decimal:
    """The decimal number that people mean by a float: the shortest that reads as it."""
    return Decimal(repr(value))


Duration = Annotated[
    timedelta, BeforeValidator(_read_duration), PlainSerializer(_write_duration, return_type=str)
]
"""`500ms`, `30s`, `10m`, `1h`, `7d`."""

Latency = Annotated[
    float,
    BeforeValidator(lambda given: float(_LATENCY.parse(given))),
    PlainSerializer(lambda value: _LATENCY.write(_exact(value)), return_type=str),
]
"""`800ms`, `1.5s`; in seconds."""

Rate = Annotated[
    float,
    BeforeValidator(lambda given: float(_RATE.parse(given))),
    PlainSerializer(lambda value: _RATE.write(_exact(value)), return_type=str),
]
"""`2%`; as a share, 0.02."""

Points = Annotated[
    float,
    BeforeValidator(lambda given: float(_POINTS.parse(given))),
    PlainSerializer(lambda value: _POINTS.write(_exact(value)), return_type=str),
]
"""`5 points`, hundredths of a mean score; as a share, 0.05."""

Tokens = Annotated[float, BeforeValidator(lambda given: float(_TOKENS.parse(given)))]
"""`200 tokens`."""

Pace = Annotated[float, BeforeValidator(lambda given: float(_PACE.parse(given)))]
"""`20 tokens/s`."""


Memory = Annotated[float, BeforeValidator(lambda given: float(_MEMORY.parse(given)))]
"""`12 GiB`; in bytes."""


def written(duration: timedelta) -> str:
    """As people write it: `10m`."""
    return _write_duration(duration)
