"""Processes that can be interrupted, wherever the tests run."""

from __future__ import annotations

import sys

# A shell starts what runs in the background with SIGINT turned off, which a process hands on to those that it starts.
_BEGIN = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def python_in_the_foreground(*args: str) -> list[str]:
    """The command line of a Python that SIGINT reaches."""
    return [sys.executable, "-c", _BEGIN, *args]
