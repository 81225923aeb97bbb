"""Typed values to JSON and back, by their type hints. No I/O, and nothing of jobs."""

from pgqueue.typed.converter import Converter, Refusal, UnsupportedHint
from pgqueue.typed.hints import Hints
from pgqueue.typed.plain import DEPTH_LIMIT, DIGITS_LIMIT, PLAIN, blame, plain

__all__ = ["DEPTH_LIMIT", "DIGITS_LIMIT", "PLAIN", "Converter", "Hints", "Refusal", "UnsupportedHint", "blame", "plain"]
