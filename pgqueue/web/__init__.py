"""The dashboard: pages to look at queues, jobs, failures, schedules, flows and workers, and to operate them.

`Dashboard(app)` is an ASGI application; `pgqueue web` serves it. Each page is a module below `pages` with a template of
its name; `visit.Visit` is what all of them are given.
"""

from pgqueue.web.access import ProxyHeader, Role, User, Visitor, hashed
from pgqueue.web.dashboard import Dashboard

__all__ = ["Dashboard", "ProxyHeader", "Role", "User", "Visitor", "hashed"]
