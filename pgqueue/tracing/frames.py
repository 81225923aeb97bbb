"""The frames of a traceback that is text alone: that of an error in a process of its own."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

HEADER = "Traceback (most recent call last):"
LOCATION = re.compile(r'  File "(?P<file>.+)", line (?P<line>\d+), in (?P<function>.+)')


class Frame(NamedTuple):
    file: str
    line: int
    function: str
    code: str


def frames_of(text: str) -> list[Frame]:
    """Outermost first, of the error that was raised last. What is no frame is passed over.

    frames_of(outcome.error.traceback)[-1].function
    """
    found = []
    lines = text.rpartition(HEADER)[2].split("\n")
    for line, following in pairwise([*lines, ""]):
        if (location := LOCATION.fullmatch(line)) is not None:
            code = "" if LOCATION.fullmatch(following) else following.strip()
            found.append(Frame(location["file"], int(location["line"]), location["function"], code))
    return found
