"""Which version answers a request: a pure function of its headers, its body and the policy."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from cluster.judging import Judging, Match
from cluster.traffic import TrafficPolicy, is_in_second_slice, route
from serve_apps.gateway import openai_errors
from serve_apps.gateway.names import ModelName
from serve_apps.gateway.openai_errors import Refusal

PIN_HEADER = b"x-linnet-version"
KEY_HEADER = b"x-linnet-key"

RawHeaders = Iterable[tuple[bytes, bytes]]


class Ask(msgspec.Struct, frozen=True):
    """The fields that matter here; the decoder checks the rest of the body and builds none of it."""

    model: str | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The version that answers; two that name the same are equal, however they came about.

    `judged_by` is the policy that decided it, where the answer counts for a judged rollout: not for a pin,
    and not for whoever the rollout does not match. `caller` is then the digest of the key that the split went
    by, empty where the caller gave none. `second_slice`: it is for stable's fresh replicas.
    """

    model: str
    version: str
    judged_by: TrafficPolicy | None = field(default=None, compare=False, repr=False)
    caller: bytes = field(default=b"", compare=False, repr=False)
    second_slice: bool = field(default=False, compare=False)


_decoder = msgspec.json.Decoder(Ask)
_AT_FIELD = re.compile(r" - at `\$\.(\w+)`")


def parse_ask(body: bytes) -> Ask | Refusal:
    """Read model and user out of a JSON body."""
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        field = _AT_FIELD.search(str(error))
        return openai_errors.wrong_type(str(error), field[1] if field else None)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return openai_errors.not_json(str(error))
    except RecursionError:
        return openai_errors.not_json("it is nested too deeply")


def select(
    ask: Ask,
    headers: RawHeaders,
    *,
    served: Sequence[str],
    versions: Callable[[str], Sequence[str]],
    policy: Callable[[str], TrafficPolicy | None],
    heard: bool,
) -> Choice | Refusal:
    """Pick the version: a pin in the header or in the model's name wins, else the split decides.

    Before the cluster was `heard` the versions are not all known, and none is called unknown.
    """
    if ask.model is None and len(served) != 1:
        return openai_errors.missing_model(served)
    text = served[0] if ask.model is None else ask.model
    name = ModelName.parse(text)
    model, label = name.model, name.version
    if model not in served:
        return openai_errors.unknown_model(text, served)
    live = policy(model)
    pin = _text(_first(headers, PIN_HEADER))
    if label or pin:
        known = [*versions(model), *(live.weights() if live else ())]
        return _pinned(model, label, pin, known, heard=heard)
    if live is None:
        return openai_errors.no_policy(model)
    return _split(live, headers, ask.user)


def _split(policy: TrafficPolicy, headers: RawHeaders, user: str | None) -> Choice:
    if policy.judging is None:
        return Choice(policy.model, route(policy, split_key(headers, user)))
    key = known_key(headers, user)
    if not is_matched(policy.judging, headers, key):
        return Choice(policy.model, policy.stable)
    sent_by = key or _nobodys_key()
    caller = _digest(key) if key else b""
    return Choice(policy.model, route(policy, sent_by), policy, caller, is_in_second_slice(policy, sent_by))


def is_matched(judging: Judging, headers: RawHeaders, key: str) -> bool:
    """Whether the candidate may answer a request; `key` is empty where the caller gave none."""
    return not judging.match or any(_fits(match, headers, key) for match in judging.match)


def _fits(match: Match, headers: RawHeaders, key: str) -> bool:
    if match.key_prefix is not None:
        return key.startswith(match.key_prefix)
    wanted = (match.header or {}).items()
    return all(
        any(found == name.encode() and _text(given) == value for found, given in headers)
        for name, value in wanted
    )


def split_key(headers: RawHeaders, user: str | None) -> str:
    """What the split hashes: the caller's key, or something random."""
    return known_key(headers, user) or _nobodys_key()


def known_key(headers: RawHeaders, user: str | None) -> str:
    """The caller's key: x-linnet-key, else `user`, else the API key, else empty."""
    return named_key(headers, user) or bearer(headers)


def named_key(headers: RawHeaders, user: str | None) -> str:
    """The name that a caller gives for whoever asks: x-linnet-key, else `user`, else empty."""
    return _text(_first(headers, KEY_HEADER)) or user or ""


def bearer(headers: RawHeaders) -> str:
    """The API key in Authorization; empty without one."""
    scheme, _, token = _text(_first(headers, b"authorization")).partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _digest(key: str) -> bytes:
    # A key may be as long as a body, and callers are kept by the ten thousand.
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def _nobodys_key() -> str:
    return secrets.token_hex(16)


def _pinned(model: str, label: str, pin: str, known: Sequence[str], *, heard: bool) -> Choice | Refusal:
    if label and pin and label != pin:
        return openai_errors.contradiction(f"{model}:{label}", pin)
    if not heard and (label or pin) not in known:
        return openai_errors.not_ready([openai_errors.UNHEARD])
    if label and label not in known:
        return openai_errors.unknown_model(f"{model}:{label}", [model, *(f"{model}:{v}" for v in known)])
    if pin and pin not in known:
        return openai_errors.unknown_version(model, pin, known)
    return Choice(model, label or pin)


def _first(headers: RawHeaders, name: bytes) -> bytes:
    return next((value for key, value in headers if key == name), b"")


def _text(value: bytes) -> str:
    # The same person's key must hash alike from a header and from the body, so UTF-8; whatever
    # is not UTF-8 still needs a text of its own that can be encoded again.
    return value.decode("utf-8", "backslashreplace").strip()
