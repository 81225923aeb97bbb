"""A registered function: how it is declared, called, enqueued, and run."""

from pgqueue.task.ageing import ageing_of
from pgqueue.task.hooks import FAILED_JOB, Called, Hook, check_called, hook_name
from pgqueue.task.options import Errors, RunIn, TaskOptions, Unique, filled, new_job, task_options
from pgqueue.task.registry import Tasks
from pgqueue.task.task import App, ArgumentsDoNotFit, BoundTask, Task

__all__ = [
    "FAILED_JOB",
    "App",
    "ArgumentsDoNotFit",
    "BoundTask",
    "Called",
    "Errors",
    "Hook",
    "RunIn",
    "Task",
    "TaskOptions",
    "Tasks",
    "Unique",
    "ageing_of",
    "check_called",
    "filled",
    "hook_name",
    "new_job",
    "task_options",
]
