"""Answers over HTTP, from a thread of their own: whether a process is alive, started and ready, and its metrics."""

from pgqueue.probes.probes import Probes
from pgqueue.probes.server import Answer, Routes, served

__all__ = ["Answer", "Probes", "Routes", "served"]
