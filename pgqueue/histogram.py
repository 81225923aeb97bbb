"""Times counted in buckets of powers of two, and the percentiles that can be read from them.

Bucket 0 counts times below a microsecond; bucket n those from 2**(n - 1) microseconds on and below 2**n.
"""

from __future__ import annotations

from collections.abc import Mapping

BUCKETS = 64
"""No time of PostgreSQL that has passed is longer ago than the last one."""


def bucket(seconds: float) -> int:
    """The bucket of a time, which is not negative."""
    return int(seconds * 1e6).bit_length()


def bounds(bucket: int) -> tuple[float, float]:
    """In seconds: the times of a bucket are not below the first, and below the second."""
    return (2.0 ** (bucket - 1) if bucket else 0.0) * 1e-6, 2.0**bucket * 1e-6


def percentile(counts: Mapping[int, int], percent: int) -> float | None:
    """The time, in seconds, that `percent` of those in `counts` (how many, by bucket) do not exceed; None of none.

    It is interpolated within the bucket where the exact one lies, so that from a microsecond on it is more than half of
    the exact one, and less than twice as much.

        percentile({10: 99, 20: 1}, 95)    # 0.0010025…, between 2**9 and 2**10 microseconds
    """
    rank = max(1, -(-sum(counts.values()) * percent // 100))
    below = 0
    for number, count in sorted(counts.items()):
        if below + count >= rank:
            lower, upper = bounds(number)
            return lower + (upper - lower) * (rank - below - 0.5) / count
        below += count
    return None
