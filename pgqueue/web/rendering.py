"""Templates, and how values are written in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pgqueue.version import VERSION
from pgqueue.web.redaction import MASK, Known, Redaction
from pgqueue.wording import counted, span

if TYPE_CHECKING:
    from pgqueue.web.visit import Visit

# Marks that turn the direction of the text after them, as they are shown.
TURNS = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\N{REPLACEMENT CHARACTER}")
NAVIGATION = (
    ("overview", "Overview"),
    ("queues", "Queues"),
    ("jobs", "Jobs"),
    ("failed", "Failed"),
    ("schedules", "Schedules"),
    ("flows", "Flows"),
    ("tasks", "Tasks"),
    ("workers", "Workers"),
    ("health", "Health"),
    ("audit", "Audit log"),
)


class Renderer:
    """Jinja with everything escaped, and nothing undefined."""

    def __init__(self, redaction: Redaction) -> None:
        self._environment = Environment(
            loader=PackageLoader("pgqueue.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_in_its_direction,
        )
        self._environment.filters.update(
            ago=ago,
            at_least=at_least,
            compact=compact,
            counted=counted,
            duration=duration,
            exact=exact,
            figure=figure,
            cut=cut,
            line=lambda value, *told: line(value, redaction.knowing(value, *told)),
            pretty=lambda value, *told: pretty(value, redaction.knowing(value, *told)),
            redacted=redaction.text,
        )
        self._environment.globals.update(navigation=NAVIGATION, version=VERSION)

    def page(self, template: str, visit: Visit, values: Mapping[str, Any]) -> str:
        """A page, or for an open page that asks what of it is live."""
        given = {
            "visit": visit,
            "url": visit.url,
            "here": visit.here,
            "token": visit.dashboard.sessions.token(visit.session),
            "message": None if visit.is_live else visit.dashboard.sessions.told(visit.request),
            "layout": "live.html" if visit.is_live else "base.html",
            "now": datetime.now(UTC),
        }
        return self._environment.get_template(template).render({**given, **values})

    def outside(self, template: str, url: Callable[..., str], values: Mapping[str, Any]) -> str:
        return self._environment.get_template(template).render({"url": url, **values})


def ago(at: datetime | None, now: datetime | None = None) -> Markup:
    """`5 min ago` or `in 5 min`, with the exact time on hover."""
    if at is None:
        return Markup("–")
    try:
        seconds = ((now or datetime.now(UTC)) - at).total_seconds()
    except OverflowError:
        return Markup("–")
    text = "now" if abs(seconds) < 1 else f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(at.isoformat(), exact(at), text)


def exact(at: datetime | None) -> str:
    """`2026-11-23 08:30:00.123 UTC`."""
    if at is None:
        return "–"
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"


def duration(value: float | timedelta | None) -> str:
    """`12 ms`, `1.20 s`, `5 min`."""
    if value is None:
        return "–"
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if seconds < 0:
        return "0 ms"
    if seconds < 0.0005:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else span(seconds)


def figure(value: float | None) -> str:
    """`1,234`, `0.5`."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"


def compact(value: float | None) -> str:
    """`1,234`, `12.3k`, `1.2M`: for tiles and charts."""
    if value is None:
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if unit == 'k' else size):.1f}".removesuffix(".0") + unit
    return figure(value)


def _in_its_direction(value: Any) -> Any:
    """Stored text must not turn the direction of what stands beside it."""
    return value.translate(TURNS) if type(value) is str else value


def at_least(counts: Any, name: str) -> str:
    """One of several counts, of which `counts.capped` names those that are bounds: `100k+`."""
    return compact(getattr(counts, name)) + ("+" if name in counts.capped else "")


def line(value: Any, known: Known) -> str:
    """JSON in one line, as a Python call has it: `to="a@b.c", copies=2`."""
    if not isinstance(value, Mapping):
        return cut(known.json(value), 300)
    return cut(", ".join(f"{known.text(str(name))}={text}" for name, text in _written(value, known)), 300)


def _written(value: Mapping[str, Any], known: Known) -> Iterator[tuple[str, str]]:
    for name, one in value.items():
        yield name, f'"{MASK}"' if known.redaction.hides(str(name)) else known.json(one)


def pretty(value: Any, known: Known) -> str:
    """JSON for people; what is longer than they read ends in an ellipsis."""
    text = known.json(value, indent=2)
    return text if len(text) <= 20_000 else f"{text[:20_000]}\n… {len(text):,} characters in all"


def cut(text: str, length: int) -> str:
    """The beginning of a text. After what is secret is taken out of it, of which a part would not be known again."""
    return text if len(text) <= length else f"{text[:length]}…"
