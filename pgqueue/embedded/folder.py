"""The folder that keeps a cluster from one run of the server to the next."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pgqueue.embedded.binaries import Account
from pgqueue.errors import ConfigurationError

OURS = {".gitignore", "cluster", "cluster.part", "postgres.log"}


def kept_folder(data: Path, account: Account) -> None:
    """Make `data`, or take it over if it is empty or ours; git passes over it.

    Raises ConfigurationError if it cannot be used.
    """
    if account.foreign and not account.may_enter(data.parent):
        raise ConfigurationError(
            f"root cannot keep PostgreSQL's data in {data}: the server runs as another user (uid {account.uid}), "
            f"who may not enter a folder above it. Choose one such as /var/tmp/pgqueue, or run as an ordinary user"
        )
    if data.exists():
        _refuse_unless_ours(data)
    else:
        data.mkdir(mode=0o700, parents=True)
        (data / ".gitignore").write_text("*\n")
    account.give(data)


def _refuse_unless_ours(data: Path) -> None:
    if os.geteuid() not in {0, owner := data.stat().st_uid}:
        raise ConfigurationError(
            f"{data} belongs to another user (uid {owner}): run as that user, or choose another folder"
        )
    strangers = {path.name for path in data.iterdir()} - OURS
    if strangers and not (data / "cluster").exists():
        raise ConfigurationError(f"{data} holds something else ({min(strangers)}): choose an empty or a new folder")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def open_private(path: str, flags: int) -> int:
    """An `opener` that writes through no link: the folder is the server's user's, and this may be root."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
