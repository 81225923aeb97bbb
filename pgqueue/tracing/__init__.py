"""Traces, metrics and error reports of jobs, as middleware: `OpenTelemetry` and `Sentry`. See docs/tracing.md.

They need their libraries: `pip install 'pgqueue[otel]'`, `pip install 'pgqueue[sentry]'`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgqueue.tracing.otel import OpenTelemetry
    from pgqueue.tracing.sentry import Sentry

__all__ = ["OpenTelemetry", "Sentry"]

# Each by its module, which is also the name of its extra, and by what that needs: its name, and as it is imported.
_NEEDS = {
    "OpenTelemetry": ("otel", "opentelemetry-api", "opentelemetry"),
    "Sentry": ("sentry", "sentry-sdk", "sentry_sdk"),
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    extra, library, package = _NEEDS[name]
    try:
        module = import_module(f"{__name__}.{extra}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ImportError(
            f"pgqueue.tracing.{name} needs {library}: install pgqueue with the extra `{extra}`, "
            f"as in pip install '.[{extra}]'"
        ) from error
    return getattr(module, name)
