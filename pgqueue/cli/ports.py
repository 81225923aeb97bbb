"""`--metrics-port` and `--probe-port`: what a worker or a scheduler answers over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgqueue.cli.values import PORT
from pgqueue.errors import ConfigurationError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from pgqueue.app import PgQueue
    from pgqueue.health import Health
    from pgqueue.probes import Answer
    from pgqueue.worker.crew import Crew

logger = logging.getLogger("pgqueue.probes")
F = TypeVar("F", bound=Callable[..., Any])

LOOPBACK = "127.0.0.1"


def port_options(command: F) -> F:
    """`--metrics-port`, `--probe-port`, and `--host` for both."""
    for option in (
        click.option(
            "--host",
            metavar="ADDRESS",
            default=LOOPBACK,
            show_default=True,
            help="Address of these ports.",
        ),
        click.option(
            "--probe-port", type=PORT, metavar="PORT", help="Answer /healthz, /startedz and /readyz there; 0: any."
        ),
        click.option("--metrics-port", type=PORT, metavar="PORT", help="Answer Prometheus at /metrics there; 0: any."),
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Ports:
    """Those that were asked for, which may be the same one."""

    metrics_port: int | None
    probe_port: int | None
    host: str

    @classmethod
    def taken(cls, given: dict[str, Any]) -> Ports:
        """Out of the options of a command."""
        return cls(given.pop("metrics_port"), given.pop("probe_port"), given.pop("host"))

    @property
    def asked(self) -> bool:
        return self.metrics_port is not None or self.probe_port is not None

    @contextmanager
    def of_process(self, app: PgQueue, health: Callable[[], Health], *, database: bool) -> Iterator[None]:
        """Answer for this process, or, where it has a supervisor, through that one. Raises ConfigurationError.

        `database`: with the metrics of the database too.
        """
        from pgqueue.worker.link import linked

        registry = None if self.metrics_port is None else registry_of(app)
        answers: dict[str, Callable[[], Any]] = {"health": lambda: astuple(health())}
        if registry is not None:
            from pgqueue.metrics.merging import packed

            answers["metrics"] = lambda: packed(registry)
        if (link := linked(answers)) is not None:
            try:
                yield
            finally:
                link.close()
            return
        if registry is not None and database:
            add_database(registry, app)
        with self._served(app, registry, health):
            yield

    @contextmanager
    def of_crew(self, app: PgQueue, crew: Crew, *, database: bool) -> Iterator[None]:
        """Answer for the processes of a crew, asked through it."""
        registry: CollectorRegistry | None = None
        if self.metrics_port is not None:
            # Says what is missing before a process starts.
            registry_of(app)
            from prometheus_client import CollectorRegistry

            from pgqueue.metrics.merging import CrewMetrics

            registry = CollectorRegistry()
            registry.register(CrewMetrics(crew))
            if database:
                add_database(registry, app)
        with self._served(app, registry, crew.health):
            yield

    @contextmanager
    def _served(self, app: PgQueue, registry: CollectorRegistry | None, health: Callable[[], Health]) -> Iterator[None]:
        from pgqueue.probes import Probes, served

        asked: list[tuple[int, dict[str, Callable[[], Answer]]]] = []
        if self.metrics_port is not None and registry is not None:
            asked.append((self.metrics_port, {"/metrics": scrape_of(registry)}))
        if self.probe_port is not None:
            asked.append((self.probe_port, {**Probes(app.database, app.schema, health).routes}))
        if self.metrics_port and self.metrics_port == self.probe_port:
            asked = [(self.metrics_port, {path: answer for _, routes in asked for path, answer in routes.items()})]
        with ExitStack() as opened:
            for port, routes in asked:
                url = opened.enter_context(served(self.host, port, routes))
                logger.info("answering %s", ", ".join(url + path for path in routes))
            yield


def registry_of(app: PgQueue) -> CollectorRegistry:
    """Where the metrics of the app are; made here where its code has made none. Raises ConfigurationError."""
    try:
        from pgqueue.metrics import Metrics
    except ImportError as error:
        raise ConfigurationError(f"--metrics-port: {error}") from error
    return (app.metrics or Metrics(app)).registry


def add_database(registry: CollectorRegistry, app: PgQueue) -> None:
    from prometheus_client.registry import DuplicateTimeseries

    from pgqueue.metrics import DatabaseMetrics

    try:
        registry.register(DatabaseMetrics(app))
    except DuplicateTimeseries:
        # The app's code has done it.
        return


def scrape_of(registry: CollectorRegistry) -> Callable[[], Answer]:
    from pgqueue.metrics import exposition
    from pgqueue.probes import Answer

    def scrape() -> Answer:
        body, content_type = exposition(registry)
        return Answer(200, content_type, body)

    return scrape
