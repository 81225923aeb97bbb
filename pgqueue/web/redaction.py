"""Secrets are not shown: values under telling names, and those same values where a text repeats them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

# Compared without case, - and _; a name that contains one of them is meant too.
NAMES = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "authorization",
    "cookie",
    "credential",
    "cardnumber",
    "cvv",
    "iban",
    "ssn",
)
MASK = "•••"
# What is shorter stands in every text by chance.
SHORTEST = 4
# Of the values that are looked for in a text.
MOST = 1000
# What may be looked through in vain is bounded: a text of others must not make a search go over it again and again.
_VALUE = r"""(?P<between>["']?\s{0,4}[:=]\s{0,4})(?P<value>"[^"\n]*"|'[^'\n]*'|[^\s,;)}\]]+)"""
_DSN = re.compile(
    r"(?P<before>(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,30}://[^\s:/@]{0,200}:)[^\s@]{1,1000}(?=@)", re.IGNORECASE
)


class Redaction:
    """What of a job is not for everybody's eyes.

    Redaction(["password"]).value({"user": "ann", "password": "x"})    # {"user": "ann", "password": "•••"}
    """

    def __init__(self, names: Iterable[str] = NAMES) -> None:
        self._names = tuple(_plain(name) for name in names if _plain(name))
        # Each as it may be written: api_key, API-Key, apikey.
        either = "|".join("[-_]?".join(map(re.escape, name)) for name in self._names) or "(?!)"
        self._pair = re.compile(rf"(?P<name>(?:{either})[\w-]{{0,40}}){_VALUE}", re.IGNORECASE)

    def hides(self, name: str) -> bool:
        plain = _plain(name)
        return any(one in plain for one in self._names)

    def value(self, value: Any) -> Any:
        """`value` without what stands under a telling name, at any depth."""
        if isinstance(value, Mapping):
            return {key: MASK if self.hides(str(key)) else self.value(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(one) for one in value]
        return value

    def text(self, text: str, *told: Any) -> str:
        """`text` without the values that `told` hides, and without those that it names itself."""
        found = islice((one for value in told for one in self._secrets(value)), MOST)
        for secret in sorted(set(found), key=len, reverse=True):
            text = text.replace(secret, MASK)
        text = _DSN.sub(rf"\g<before>{MASK}", text)
        return self._pair.sub(rf"\g<name>\g<between>{MASK}", text)

    def _secrets(self, value: Any, hidden: bool = False) -> Iterator[str]:
        if isinstance(value, Mapping):
            for key, one in value.items():
                yield from self._secrets(one, hidden or self.hides(str(key)))
        elif isinstance(value, list | tuple):
            for one in value:
                yield from self._secrets(one, hidden)
        elif hidden and value is not None and not isinstance(value, bool) and len(str(value)) >= SHORTEST:
            yield str(value)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
