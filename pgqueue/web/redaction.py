"""Secrets are not shown: values under telling names, and those same values where a text repeats them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import quote, quote_plus

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
# Places at which what is left of one may begin, where a text was cut.
LOOKED_AT = 50
# What may be looked through in vain is bounded: a text of others must not make a search go over it again and again.
# Quotes may be escaped where the text is one in another; of a list all is meant.
_BETWEEN = r"""(?P<between>\\{0,3}["']?\s{0,4}[:=]\s{0,4})"""
_VALUE = (
    r"""(?P<value>\\{1,3}(?P<quote>["'])[^\n]{0,1000}?\\{1,3}(?P=quote)|"[^"\\\n]*(?:\\.[^"\\\n]*){0,1000}"|"""
    r"""'[^'\\\n]*(?:\\.[^'\\\n]*){0,1000}'|"""
    # A list, which may hold another, and texts with brackets in them.
    r"""\[(?:[^\[\]"'\n]|"[^"\n]{0,300}"|'[^'\n]{0,300}'|\[[^\[\]\n]{0,300}\]){0,1000}\]|"""
    r"""(?:(?:bearer|basic|digest|token)\s{1,4})?[^\s,;)}\]]+)"""
)
# Fields of HTTP, of which the rest of the line is the value.
_FIELDS = {"authorization": "(?:proxy-)?authorization", "cookie": "(?:set-)?cookie"}
_DSN = re.compile(
    r"(?P<before>(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,30}://[^\s:/@]{0,200}:)[^\s@]{1,1000}(?=@)", re.IGNORECASE
)


# As `outcome.storable` and a page cut.
_CUT = re.compile(r"(\n… \d+ characters left out …\n|…\Z)")


def _hidden_field(match: re.Match[str]) -> str:
    if (quote := match["quote"]) is not None:
        return f"{quote}{match['quoted']}{match['between']}{MASK}{quote}"
    return f"{match['name']}{match['colon']}{MASK}"


class Redaction:
    """What of a job is not for everybody's eyes.

    Redaction(["password"]).value({"user": "ann", "password": "x"})    # {"user": "ann", "password": "•••"}
    """

    def __init__(self, names: Iterable[str] = NAMES) -> None:
        self._names = tuple(_plain(name) for name in names if _plain(name))
        # Each as it may be written: api_key, API-Key, apikey.
        either = "|".join("[-_]?".join(map(re.escape, name)) for name in self._names) or "(?!)"
        self._pair = re.compile(rf"(?P<name>(?:{either})[\w-]{{0,40}}){_BETWEEN}{_VALUE}", re.IGNORECASE)
        fields = "|".join(written for name, written in _FIELDS.items() if self.hides(name)) or "(?!)"
        # To the end of the line, or of the quotes that it stands in: it has quotes of its own.
        self._field = re.compile(
            rf"""(?P<quote>["'])(?P<quoted>{fields})(?P<between>:\s{{0,4}})[^\n]+(?P=quote)"""
            rf"""|(?P<name>(?<![\w-])(?:{fields}))(?P<colon>:\s{{0,4}})[^\n]+""",
            re.IGNORECASE,
        )

    def hides(self, name: str) -> bool:
        plain = _plain(name)
        return any(one in plain for one in self._names)

    def value(self, value: Any) -> Any:
        """`value` without what stands under a telling name, at any depth, and what its texts name themselves."""
        if isinstance(value, Mapping):
            return {key: MASK if self.hides(str(key)) else self.value(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(one) for one in value]
        return self.named(value) if isinstance(value, str) else value

    def named(self, text: str) -> str:
        """`text` without what it names itself: `token=…`, the password of an address."""
        text = self._field.sub(_hidden_field, _DSN.sub(rf"\g<before>{MASK}", text))
        return self._pair.sub(rf"\g<name>\g<between>{MASK}", text)

    def shown(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Those of `args` that neither are secrets nor hold one."""
        known = self.knowing(args)
        plain = json.dumps(dict(args), ensure_ascii=False, default=str)
        whole = json.loads(plain)
        return {name: args[name] for name in args if json.loads(known.json({name: args[name]})) == {name: whole[name]}}

    def knowing(self, *told: Any) -> Known:
        """What knows the values that `told` hides, each as texts may write it. What knows already can be told too."""
        values: set[str] = set()
        for one in told:
            if isinstance(one, Known):
                values.update(one.secrets)
            else:
                values.update(form for secret in islice(self._secrets(one), MOST) for form in _forms(secret))
        return Known(self, tuple(sorted(values, key=lambda one: (-len(one), one))))

    def text(self, text: str, *told: Any) -> str:
        """`text` without the values that `told` hides, and without those that it names itself."""
        return self.knowing(*told).text(text)

    def _secrets(self, value: Any, hidden: bool = False) -> Iterator[str]:
        if isinstance(value, Mapping):
            for key, one in value.items():
                yield from self._secrets(one, hidden or self.hides(str(key)))
        elif isinstance(value, list | tuple):
            for one in value:
                yield from self._secrets(one, hidden)
        elif hidden and value is not None and not isinstance(value, bool) and len(str(value)) >= SHORTEST:
            yield str(value)


@dataclass(frozen=True, slots=True)
class Known:
    """A redaction that knows some values, the longest first: found once, for all texts of a page."""

    redaction: Redaction
    secrets: tuple[str, ...]

    def text(self, text: str) -> str:
        """`text` without these values, and without those that it names itself."""
        return self.redaction.named(self.repeated(text))

    def json(self, value: Any, indent: int | None = None) -> str:
        """A value as JSON for people: without what it hides, wherever it stands in it."""
        text = json.dumps(self.redaction.value(value), indent=indent, ensure_ascii=False, default=str)
        return self.redaction.knowing(self, value).repeated(text)

    def hides(self, text: str) -> bool:
        """Whether `text` is not to be shown as it is."""
        return self.text(text) != text

    def repeated(self, text: str) -> str:
        """`text` without these values, and without what is left of one where the text was cut."""
        for secret in self.secrets:
            text = text.replace(secret, MASK)
        parts = _CUT.split(text)
        for n in range(0, len(parts), 2):
            for secret in self.secrets:
                parts[n] = _without_start(parts[n], secret)
                if n:
                    parts[n] = _without_start(parts[n][::-1], secret[::-1])[::-1]
        return "".join(parts)


def _without_start(text: str, secret: str) -> str:
    """`text` without the beginning of a secret with which it ends."""
    begins = secret[:SHORTEST]
    place = text.find(begins, max(len(text) - len(secret) + 1, 0))
    for _ in range(LOOKED_AT):
        if place < 0:
            break
        if secret.startswith(text[place:]):
            return text[:place] + MASK
        place = text.find(begins, place + 1)
    return text


def _forms(secret: str) -> set[str]:
    """A text as it stands in another: as it is, and as Python, JSON and addresses write it."""
    if secret.isascii() and secret.isalnum():
        return {secret}
    quoted = {repr(secret)[1:-1], ascii(secret)[1:-1], json.dumps(secret)[1:-1]}
    quoted |= {json.dumps(secret, ensure_ascii=False)[1:-1]}
    # A lone surrogate is in no address.
    with suppress(UnicodeEncodeError):
        quoted |= {quote(secret), quote(secret, safe=""), quote_plus(secret)}
    return {secret, *quoted}


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
