"""The pages, a module each: what they show, and what can be done there."""

from pgqueue.web.pages import (
    audit,
    control,
    failed,
    flows,
    health,
    job,
    jobs,
    overview,
    queue,
    queues,
    schedules,
    tasks,
    workers,
)
from pgqueue.web.routing import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = (
    *overview.ENDPOINTS,
    *queues.ENDPOINTS,
    *queue.ENDPOINTS,
    *control.ENDPOINTS,
    *jobs.ENDPOINTS,
    *job.ENDPOINTS,
    *failed.ENDPOINTS,
    *schedules.ENDPOINTS,
    *flows.ENDPOINTS,
    *tasks.ENDPOINTS,
    *workers.ENDPOINTS,
    *health.ENDPOINTS,
    *audit.ENDPOINTS,
)
