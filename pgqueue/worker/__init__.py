"""A process that runs jobs: claimer, executor, finisher, heartbeat, listener, and the background services."""

from pgqueue.worker.worker import Worker

__all__ = ["Worker"]
