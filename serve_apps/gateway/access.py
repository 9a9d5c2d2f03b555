"""Who asks, and what they may use: decided from the headers, before the body is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cluster.keys import MARK, Limits
from serve_apps.gateway import openai_errors
from serve_apps.gateway.config import AdminPaths, Auth, GatewayConfig
from serve_apps.gateway.keys import KeyCache, LiveKey
from serve_apps.gateway.limits import Meter
from serve_apps.gateway.names import ModelName
from serve_apps.gateway.openai_errors import Refusal

RawHeaders = Iterable[tuple[bytes, bytes]]

_MARK = MARK.encode()
# Ours have 74 bytes; what is much longer is refused unhashed.
_LONGEST_SECRET = 256


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request; `key` is None for those who need none."""

    key: LiveKey | None
    meter: Meter

    def usable(self, served: Sequence[str]) -> Sequence[str]:
        """Those of the served models that the caller may use."""
        if self.key is None or not self.key.models:
            return served
        return [model for model in served if model in self.key.models]

    def check_model(self, name: str | None, served: Sequence[str]) -> Refusal | None:
        """The refusal of a model that the key does not name, whether or not it is served."""
        if self.key is None or not self.key.models:
            return None
        usable = self.usable(served)
        wanted = ModelName.parse(name).model if name is not None else next(iter(usable), None)
        return None if wanted in usable else openai_errors.model_not_allowed(usable)

    def lane(self, named: str) -> str:
        """Where the caller waits among others: a lane for each key, else for each name that callers give."""
        return f"key {self.key.id}" if self.key is not None else f"named {named}"


ANONYMOUS = Caller(None, Meter(Limits()))


class Access:
    """The rule of `auth` and `admin_paths`, with the keys that it goes by."""

    def __init__(
        self, config: GatewayConfig, keys: KeyCache | None, clock: Callable[[], float] = time.time
    ) -> None:
        if keys is None and config.auth is not Auth.NONE:
            raise ValueError(f"auth: {config.auth.value} needs the keys")
        self._auth = config.auth
        self._admin_paths = config.admin_paths
        self._keys = keys
        self._clock = clock

    def ready(self) -> bool:
        """Whether callers can be told apart."""
        return self._keys is None or self._keys.ready()

    def identify(self, headers: RawHeaders) -> Caller | Refusal:
        """The caller, or why there is no answer for them."""
        if self._keys is None or self._auth is Auth.NONE:
            return ANONYMOUS
        secret = _secret(headers)
        if self._auth is Auth.OPTIONAL and (secret is None or not secret.startswith(_MARK)):
            return ANONYMOUS
        if secret is None:
            return openai_errors.no_api_key()
        if not self._keys.ready():
            return openai_errors.keys_unknown()
        key = self._keys.get(secret, self._clock()) if len(secret) <= _LONGEST_SECRET else None
        return openai_errors.invalid_api_key() if key is None else Caller(key, key.meter)

    def check_admin(self, headers: RawHeaders) -> Refusal | None:
        """The refusal of an admin path, if there is one."""
        if self._auth is Auth.NONE or self._admin_paths is AdminPaths.PUBLIC:
            return None
        caller = self.identify(headers)
        if isinstance(caller, Refusal):
            return caller
        if caller.key is None:
            return openai_errors.no_api_key()
        return None if caller.key.admin else openai_errors.admin_required()


def _secret(headers: RawHeaders) -> bytes | None:
    """The bearer token; None where there is none, or several."""
    found = [value for name, value in headers if name == b"authorization"]
    if len(found) != 1:
        return None
    scheme, _, token = found[0].partition(b" ")
    return (token.strip() or None) if scheme.lower() == b"bearer" else None
