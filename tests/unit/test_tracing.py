"""What tracing needs, and what it reads of a traceback."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

import pytest

from pgqueue.outcome import AttemptError
from pgqueue.tracing.frames import frames_of


@pytest.mark.parametrize(
    ("name", "library", "fix"),
    [
        ("OpenTelemetry", "opentelemetry", r"needs opentelemetry-api: .* as in pip install '.[otel]'"),
        ("Sentry", "sentry_sdk", r"needs sentry-sdk: .* as in pip install '.[sentry]'"),
    ],
)
def test_without_its_library_each_names_its_extra_and_the_other_is_there(name: str, library: str, fix: str) -> None:
    other = {"OpenTelemetry": "Sentry", "Sentry": "OpenTelemetry"}[name]
    code = f"import sys; sys.modules[{library!r}] = None\nfrom pgqueue.tracing import {other}\nimport pgqueue.tracing\n"
    code += f"try: pgqueue.tracing.{name}\nexcept ImportError as error: print(error)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for part in fix.split(".*"):
        assert part.strip() in said


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    code = "import sys, pgqueue.tracing, pgqueue.app; print({'opentelemetry', 'sentry_sdk'} & {*sys.modules})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "set()\n"


def fails() -> None:
    raise ValueError('no\n  File "x", line 1, in y')


def test_frames_are_those_of_the_error_that_was_raised_last() -> None:
    try:
        with suppress(KeyError):
            raise KeyError("a")
        try:
            fails()
        except ValueError as cause:
            raise LookupError("nothing there") from cause
    except LookupError as error:
        text = AttemptError.of(error).traceback
    [frame] = frames_of(text)
    assert (frame.file, frame.code) == (__file__, 'raise LookupError("nothing there") from cause')
    assert frame.function == "test_frames_are_those_of_the_error_that_was_raised_last"


@pytest.mark.parametrize("text", ["", "no traceback", "Traceback (most recent call last):\n… 9 characters left out …"])
def test_a_text_without_frames_has_none(text: str) -> None:
    assert frames_of(text) == []
