"""For the tests of an app: run its jobs here and now, and say what was enqueued. On the real database.

- `drain(app)` runs what waits, through a real worker in this process, and returns when nothing is left
- `enqueued(app)` lists jobs; `assert_enqueued(app, task, …)` fails with a list of those that there are
- `run_inline(task, …)` runs one task without a database, its arguments written and read as for a job

`drain` is for committed jobs. `enqueued` and `assert_enqueued` take `using=` to look inside an open transaction.

    def test_an_order_sends_an_email() -> None:
        place_order(customer="a@b.c")
        assert_enqueued(app, send_email, to="a@b.c")
        assert drain(app).completed == 1
"""

from pgqueue.testing.draining import DrainReport, adrain, drain
from pgqueue.testing.expecting import aassert_enqueued, aenqueued, assert_enqueued, enqueued
from pgqueue.testing.inline import run_inline

__all__ = [
    "DrainReport",
    "aassert_enqueued",
    "adrain",
    "aenqueued",
    "assert_enqueued",
    "drain",
    "enqueued",
    "run_inline",
]
