"""Inspecting and operating: jobs, queues, schedules, workers, alerts. Thin over the queries, sync and async."""

from pgqueue.client.alerts import Alerts
from pgqueue.client.breakers import Breakers
from pgqueue.client.doctor import Doctor
from pgqueue.client.failed import FailedJobs
from pgqueue.client.figures import Figures
from pgqueue.client.fleet import Queue, Queues, Workers
from pgqueue.client.flows import Flows
from pgqueue.client.inserter import Inserter, staggered
from pgqueue.client.jobs import Jobs
from pgqueue.client.limits import Limits
from pgqueue.client.schedules import Schedules
from pgqueue.client.watching import Watch

__all__ = [
    "Alerts",
    "Breakers",
    "Doctor",
    "FailedJobs",
    "Figures",
    "Flows",
    "Inserter",
    "Jobs",
    "Limits",
    "Queue",
    "Queues",
    "Schedules",
    "Watch",
    "Workers",
    "staggered",
]
