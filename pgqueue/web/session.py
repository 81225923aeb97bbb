"""What a browser keeps, signed: who entered, the token of its forms, a message for its next page, and whom it knows."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Any

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from pgqueue.errors import ConfigurationError
from pgqueue.web.access import Passwords, User, Visitor

COOKIE = "pgqueue_session"
MESSAGE = "pgqueue_message"
KNOWN = "pgqueue_known"
# Seconds: a working day, after which one enters again.
LASTS = 12 * 3600
MESSAGE_LASTS = 60
KNOWN_LASTS = 90 * 24 * 3600
SHORTEST_SECRET = 16


@dataclass(frozen=True, slots=True)
class Session:
    """A browser. `id` is what its forms' token is made of; `name` is who entered with a password."""

    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    name: str | None = None
    stamp: str | None = None


class Sessions:
    """Reads and writes the cookies. Processes that share a `secret` read each other's."""

    def __init__(self, secret: str | None, passwords: Passwords) -> None:
        if secret is not None and len(secret) < SHORTEST_SECRET:
            raise ConfigurationError(
                f"the secret of the dashboard has {len(secret)} characters: give at least {SHORTEST_SECRET} random ones"
            )
        self._secret = secret or secrets.token_urlsafe(32)
        self._passwords = passwords
        self._sessions = URLSafeTimedSerializer(self._secret, salt=COOKIE)
        self._messages = URLSafeTimedSerializer(self._secret, salt=MESSAGE)
        self._known = URLSafeTimedSerializer(self._secret, salt=KNOWN)

    def read(self, connection: HTTPConnection) -> Session | None:
        """The session of a request; None where it has none that is valid."""
        return next(iter(self._all(connection)), None)

    def visitor(self, session: Session | None) -> Visitor | None:
        """Who entered with a password, if that still is theirs."""
        user = self._passwords.named(session.name) if session and session.name else None
        if user is None or session is None or not hmac.compare_digest(user.stamp, session.stamp or ""):
            return None
        return user.visitor

    def write(self, response: Response, connection: HTTPConnection, session: Session) -> None:
        own, value = _name(session), self._sessions.dumps([session.id, session.name, session.stamp])
        # What an earlier secret has signed would stay beside it.
        for name in _names(connection):
            if name != own and self._loaded(connection.cookies[name]) is None:
                response.delete_cookie(name, path=_path(connection))
        self._set(response, connection, own, str(value), LASTS)

    def leave(self, response: Response, connection: HTTPConnection) -> None:
        """Nobody has entered with this browser any more."""
        response.delete_cookie(COOKIE, path=_path(connection))

    def entered(self, user: User) -> Session:
        """A session for a user, with an id that nobody knew before."""
        return Session(name=user.name, stamp=user.stamp)

    def remember(self, response: Response, connection: HTTPConnection, user: User) -> None:
        """That a user has entered in this browser. It lets nobody in: others cannot slow down its passwords."""
        value = self._known.dumps([secrets.token_urlsafe(16), user.name, user.stamp])
        self._set(response, connection, KNOWN, str(value), KNOWN_LASTS)

    def known(self, connection: HTTPConnection, name: str) -> str | None:
        """The browser, where the user of this name has entered in it, with the password and the role of today."""
        user = self._passwords.named(name)
        try:
            browser, whose, stamp = self._known.loads(connection.cookies.get(KNOWN, ""), max_age=KNOWN_LASTS)
        except (BadSignature, TypeError, ValueError):
            return None
        return str(browser) if user is not None and (whose, stamp) == (user.name, user.stamp) else None

    def token(self, session: Session) -> str:
        """What the forms of this browser send, and no other page can know."""
        return hmac.new(self._secret.encode(), f"token:{session.id}".encode(), hashlib.sha256).hexdigest()

    def knows(self, connection: HTTPConnection, token: str) -> bool:
        """Whether a form is of a page of this browser; of who has entered, of a page since then."""
        sessions = self._all(connection)
        if sessions and sessions[0].name is not None:
            del sessions[1:]
        return any(hmac.compare_digest(self.token(session).encode(), token.encode()) for session in sessions)

    def tell(self, response: Response, connection: HTTPConnection, kind: str, text: str) -> None:
        """Show a message on the next page. `kind` is done or error."""
        # A browser keeps 4,096 characters of a cookie.
        self._set(response, connection, MESSAGE, str(self._messages.dumps([kind, text[:1000]])), MESSAGE_LASTS)

    def told(self, request: Request) -> tuple[str, str] | None:
        try:
            kind, text = self._messages.loads(request.cookies.get(MESSAGE, ""), max_age=MESSAGE_LASTS)
        except (BadSignature, TypeError, ValueError):
            return None
        return str(kind), str(text)

    def forget_message(self, response: Response, connection: HTTPConnection) -> None:
        response.delete_cookie(MESSAGE, path=_path(connection))

    def _all(self, connection: HTTPConnection) -> list[Session]:
        """Those of a browser, the one that has entered first.

        One that asks for its first pages at once gets a session for each, and the forms of all of them are its own.
        """
        loaded = [self._loaded(connection.cookies[name]) for name in _names(connection)]
        found = [session for session in loaded if session is not None]
        return sorted(found, key=lambda session: (session.name is None, session.id))

    def _loaded(self, value: str) -> Session | None:
        try:
            values: Any = self._sessions.loads(value, max_age=LASTS)
            return Session(*values)
        except (BadSignature, TypeError):
            return None

    def _set(self, response: Response, connection: HTTPConnection, name: str, value: str, lasts: int) -> None:
        secure = connection.url.scheme == "https"
        response.set_cookie(
            name, value, max_age=lasts, path=_path(connection), secure=secure, httponly=True, samesite="lax"
        )


def _name(session: Session) -> str:
    # A cookie of the same name would take the place of the one of another page that is on its way.
    return COOKIE if session.name is not None else f"{COOKIE}_{session.id[:8]}"


def _names(connection: HTTPConnection) -> list[str]:
    return [name for name in connection.cookies if name == COOKIE or name.startswith(f"{COOKIE}_")]


def _path(connection: HTTPConnection) -> str:
    return str(connection.scope.get("root_path") or "") + "/"
