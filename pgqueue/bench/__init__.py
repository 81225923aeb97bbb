"""`pgqueue bench`: what pgqueue costs on your server, beside bare loops of the same work.

`bare` is what PostgreSQL and the driver allow: loops without tasks, on one connection. `produce` and `work` are the two
sides of pgqueue, each function of theirs a `part`: a process of its own. `measure` sets pgqueue and bare loop against
each other, round by round, at a `place`: a schema that is made for this (`making`) and dropped.
"""

from __future__ import annotations

GROUPS = ("enqueue", "drain", "mixed", "pickup")
SCHEMA = "pgqueue_bench"
