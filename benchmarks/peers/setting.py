"""What the benchmark tells a contender's process: one JSON object in the environment."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Self

VARIABLE = "PGQUEUE_BENCHMARK"


@dataclass(frozen=True, slots=True)
class Setting:
    """Where to connect, where the ledger is, and what the task does besides writing to it.

    `size` is one more than the highest number of a job. `failing` is how many of a hundred jobs fail for good.
    """

    dsn: str
    redis: str
    ledger: str
    size: int
    timed: bool
    sleep: float
    failing: int
    options: dict[str, Any]

    @classmethod
    def read(cls) -> Self:
        return cls(**json.loads(os.environ[VARIABLE]))
