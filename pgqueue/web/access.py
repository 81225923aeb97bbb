"""Who may enter the dashboard, and what each may do there."""

from __future__ import annotations

import hashlib
import hmac
import inspect
import ipaddress
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, get_args

import anyio
from anyio import to_thread
from starlette.requests import HTTPConnection

from pgqueue.errors import ConfigurationError

Role = Literal["viewer", "operator", "admin"]
# Each may do what those before it may.
ROLES: tuple[Role, ...] = get_args(Role)
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
NAME = re.compile(r"[^\s:]{1,100}")

# RFC 7914; with n = 2^15, r = 8, p = 1 a guess costs 32 MiB and some 50 ms.
COST, BLOCK, PARALLEL, SALT, LENGTH = 2**15, 8, 1, 16, 32
MEMORY = 64 * 2**20
# Guesses beside each other would be a way to use up the memory of the server.
GUESSES = 2


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who has entered: a name for the audit log, and a role."""

    name: str
    role: Role

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ConfigurationError(f"visitor {self.name!r} has no role {self.role!r}: use one of {', '.join(ROLES)}")

    def may(self, role: Role) -> bool:
        """Whether the role is one that may do what `role` may."""
        return ROLES.index(self.role) >= ROLES.index(role)


@dataclass(frozen=True, slots=True)
class User:
    """One who enters with a password. `password` is what `hashed` makes of it. Raises ConfigurationError.

    User("ann", "operator", "scrypt$32768$8$1$…")
    """

    name: str
    role: Role
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigurationError(f"user name {self.name!r} must have 1 to 100 characters, no space and no colon")
        if self.role not in ROLES:
            raise ConfigurationError(f"user {self.name} has no role {self.role!r}: use one of {', '.join(ROLES)}")
        if _parts(self.password) is None:
            raise ConfigurationError(
                f"the password of user {self.name} is no hash: `pgqueue web --new-user {self.name}:{self.role}` "
                "makes one"
            )

    @property
    def visitor(self) -> Visitor:
        return Visitor(self.name, self.role)

    @property
    def stamp(self) -> str:
        """Changes with the password and the role: what was signed for another is not valid any more."""
        return hashlib.sha256(f"{self.name}:{self.role}:{self.password}".encode()).hexdigest()[:16]


class Door(Protocol):
    """A way to enter beside the login page."""

    async def visitor(self, connection: HTTPConnection) -> Visitor | None:
        """Who comes in here; None for nobody."""
        ...


@dataclass(frozen=True, slots=True)
class Loopback:
    """Open to who is on this machine: asked from loopback, by a name of loopback, through no proxy."""

    role: Role = "admin"

    async def visitor(self, connection: HTTPConnection) -> Visitor | None:
        client, host = connection.client, connection.url.hostname
        # A proxy on this machine asks from loopback as well, for anybody. One that says nothing of itself may still
        # speak the older HTTP, which browsers do not.
        passed_on = connection.scope.get("http_version") == "1.0" or any(
            name in ("forwarded", "via") or name.startswith("x-forwarded") or name == "x-real-ip"
            for name in connection.headers
        )
        if client is None or passed_on or not is_loopback(client.host) or not is_loopback(host or ""):
            return None
        return Visitor("local", self.role)


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A header in which a proxy names whom it has let in. It is believed only of `proxies` (addresses or networks).

    `roles` maps names to roles; who is not in it has `role`, or does not enter where that is None. Raises
    ConfigurationError.

        ProxyHeader("X-Forwarded-User", proxies=["10.0.0.0/8"], roles={"ann": "admin"})
    """

    name: str
    proxies: Iterable[str]
    roles: Mapping[str, Role] = field(default_factory=dict)
    role: Role | None = "viewer"
    _networks: tuple[Network, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found = networks(self.proxies, f"header {self.name}")
        if not found:
            raise ConfigurationError(f"header {self.name}: anybody could send it, say which proxies are believed")
        for role in (*self.roles.values(), *([] if self.role is None else [self.role])):
            if role not in ROLES:
                raise ConfigurationError(f"header {self.name} gives no role {role!r}: use one of {', '.join(ROLES)}")
        object.__setattr__(self, "_networks", found)

    async def visitor(self, connection: HTTPConnection) -> Visitor | None:
        named = connection.headers.getlist(self.name)
        if len(named) != 1 or not named[0].strip() or not is_among(connection, self._networks):
            return None
        name = named[0].strip()
        role = self.roles.get(name, self.role)
        return None if role is None else Visitor(name, role)


Authenticate = Callable[[HTTPConnection], "Visitor | Awaitable[Visitor | None] | None"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A callable of the host's, which knows who is asking; a plain function runs in a thread."""

    authenticate: Authenticate

    async def visitor(self, connection: HTTPConnection) -> Visitor | None:
        if inspect.iscoroutinefunction(self.authenticate):
            found = await self.authenticate(connection)
        else:
            found = await to_thread.run_sync(self.authenticate, connection)
            if inspect.isawaitable(found):
                found = await found
        if found is not None and not isinstance(found, Visitor):
            raise ConfigurationError(f"authenticate returned {found!r}: return a Visitor, or None for nobody")
        return found


class Passwords:
    """The users, and the check of a password in constant time, whoever is named."""

    def __init__(self, users: Iterable[User] = ()) -> None:
        self._users: dict[str, User] = {}
        for user in users:
            if user.name in self._users:
                raise ConfigurationError(f"two users are named {user.name}: give one of them another name")
            self._users[user.name] = user
        self._nobody = hashed(secrets.token_hex(16)) if self._users else ""
        self._limiter = anyio.Semaphore(GUESSES)

    def __bool__(self) -> bool:
        return bool(self._users)

    def named(self, name: str) -> User | None:
        return self._users.get(name)

    async def entering(self, name: str, password: str) -> User | None:
        """The user with this name and password; None where there is none."""
        user = self._users.get(name)
        known = user.password if user else self._nobody
        async with self._limiter:
            right = await to_thread.run_sync(partial(matches, password, known))
        return user if right else None


def hashed(password: str) -> str:
    """`password` for a `User`: scrypt with a salt of its own."""
    salt = secrets.token_bytes(SALT)
    return f"scrypt${COST}${BLOCK}${PARALLEL}${_text(salt)}${_text(_scrypt(password, salt, COST, BLOCK, PARALLEL))}"


def matches(password: str, known: str) -> bool:
    """Whether `known` was made of `password`."""
    parts = _parts(known)
    if parts is None:
        return False
    cost, block, parallel, salt, digest = parts
    return hmac.compare_digest(_scrypt(password, salt, cost, block, parallel), digest)


def read_users(path: Path) -> list[User]:
    """The users of a file with a line `name:role:hash` each; empty lines and those with # are left out.

    Raises ConfigurationError.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the users of {path} cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, role, password = (*line.strip().split(":", 2), "", "")[:3]
        try:
            found.append(User(name, role, password))  # type: ignore[arg-type]
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}, line {number}: {error}") from error
    if not found:
        raise ConfigurationError(
            f"{path} has no user: add lines name:role:hash, as `pgqueue web --new-user` prints them"
        )
    return found


def is_loopback(host: str) -> bool:
    """Whether a name or an address is one of this machine alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def networks(given: Iterable[str], what: str) -> tuple[Network, ...]:
    """Addresses and networks. Raises ConfigurationError."""
    try:
        return tuple(ipaddress.ip_network(one) for one in given)
    except ValueError as error:
        raise ConfigurationError(f"{what}: {error}; give addresses such as 10.0.0.0/8") from error


def is_among(connection: HTTPConnection, known: Iterable[Network]) -> bool:
    """Whether who is connected has an address in one of these networks."""
    try:
        address = ipaddress.ip_address(connection.client.host if connection.client else "")
    except ValueError:
        return False
    return any(address in network for network in known)


def _scrypt(password: str, salt: bytes, cost: int, block: int, parallel: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=cost, r=block, p=parallel, maxmem=MEMORY, dklen=LENGTH)


def _parts(known: str) -> tuple[int, int, int, bytes, bytes] | None:
    kind, *numbers, salt, digest = (*known.split("$"), "", "", "")[:6] if known.count("$") == 5 else ("",) * 6
    try:
        cost, block, parallel = map(int, numbers)
        found = cost, block, parallel, urlsafe_b64decode(salt), urlsafe_b64decode(digest)
    except ValueError:
        return None
    # What needs more memory than scrypt is given would be an error at each login.
    fits = 1 < cost <= 2**20 and cost & (cost - 1) == 0 and block > 0 and parallel > 0
    if kind != "scrypt" or not fits or 128 * cost * block >= MEMORY or len(found[4]) != LENGTH:
        return None
    return found


def _text(value: bytes) -> str:
    return urlsafe_b64encode(value).decode()
