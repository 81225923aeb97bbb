"""Signatures after the Standard Webhooks specification 1.0.0.

Source: https://github.com/standard-webhooks/standard-webhooks, `spec/standard-webhooks.md`. What is signed is the
message's id, the time of this attempt and the body, with dots between them; a receiver takes the request if one of the
signatures is that of a secret it knows. Here are the symmetric ones (`v1`, HMAC-SHA256).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import inspect
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

from pgqueue.errors import ArgumentError, ConfigurationError

Secrets: TypeAlias = str | Sequence[str]
Secret: TypeAlias = Secrets | Callable[[str], Secrets | Awaitable[Secrets]] | None

PREFIX = "whsec_"
KEY_BYTES = range(24, 65)
ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
MAKE_ONE = "python -c \"import base64, secrets; print('whsec_' + base64.b64encode(secrets.token_bytes(32)).decode())\""


def keys_of(secrets: str | Sequence[str]) -> tuple[bytes, ...]:
    """The keys of one secret, or of several while they are exchanged. Raises ConfigurationError, which shows none."""
    given: object = secrets
    several = [secrets] if isinstance(secrets, str) else secrets
    if not isinstance(given, str | list | tuple) or not several:
        raise ConfigurationError(
            f"secret is {type(given).__name__}: give a text that begins with {PREFIX!r}, or a list of some"
        )
    return tuple(_key(secret, number) for number, secret in enumerate(several, 1))


def _key(secret: object, number: int) -> bytes:
    fix = f"give {PREFIX!r} and base64 of {KEY_BYTES[0]} to {KEY_BYTES[-1]} random bytes; {MAKE_ONE}"
    if not isinstance(secret, str) or not secret.startswith(PREFIX):
        raise ConfigurationError(f"secret {number} does not begin with {PREFIX!r}: {fix}")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError(f"secret {number} is not base64 after {PREFIX!r}: {fix}") from None
    if len(key) not in KEY_BYTES:
        raise ConfigurationError(f"secret {number} has {len(key)} bytes: {fix}")
    return key


class Signer:
    """Makes the headers of the specification. `secret` as in `Push`; raises ConfigurationError for a wrong one."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret if secret is None or callable(secret) else keys_of(secret)

    async def headers(self, id: str, url: str, body: bytes) -> dict[str, str]:
        """Of an attempt that begins now; without a signature where there is no secret."""
        now = int(time.time())
        signed = {"webhook-id": id, "webhook-timestamp": str(now)}
        if self._secret is not None:
            signed["webhook-signature"] = signatures(await self._keys(url), id, now, body)
        return signed

    async def _keys(self, url: str) -> tuple[bytes, ...]:
        if isinstance(self._secret, tuple):
            return self._secret
        assert self._secret is not None
        found = self._secret(url)
        return keys_of(await found if inspect.isawaitable(found) else found)


def signatures(keys: Iterable[bytes], id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one of each key, apart by spaces. `timestamp` is in seconds since 1970."""
    signed = f"{id}.{timestamp}.".encode() + body
    digests = [hmac.new(key, signed, hashlib.sha256).digest() for key in keys]
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def checked_id(id: object) -> str:
    """Raises ArgumentError for what no message may be called: a dot would move the parts of what is signed."""
    if not isinstance(id, str) or not ID.fullmatch(id):
        raise ArgumentError(f"id={id!r} is no id of a message: use 1 to 100 letters, digits, - and _")
    return id


def id_of(job: str, url: str, body: bytes) -> str:
    """The id of a message without one of its own: the same in every attempt of a job, and after its redrive.

    A job's number alone is that of another message after a restore, in another database, or where the job was replaced.
    """
    digest = hashlib.sha256("\n".join([job, url, ""]).encode() + body)
    return f"msg_{digest.hexdigest()[:32]}"
