"""Work for a processor: what resizing a photograph takes, without the photograph. Its process imports this module."""

from __future__ import annotations

import hashlib

from benchmarks.peers.setting import Setting
from pgqueue import PgQueue

ROUNDS = 40_000
"""About 15 to 20 ms."""

app = PgQueue(Setting.read().dsn)


@app.task(name="image", queue="images", run_in="process")
def resize(number: int) -> None:
    hashlib.pbkdf2_hmac("sha256", b"%d" % number, b"", ROUNDS)
