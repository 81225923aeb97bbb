"""Push to HTTP: a ready-made task that delivers a request, for webhooks and calls that must arrive.

It needs httpx: `pip install 'pgqueue[push]'`.
"""

from importlib.util import find_spec

if find_spec("httpx") is None:
    raise ImportError("pgqueue.push needs httpx: install pgqueue with the extra `push`, as in pip install '.[push]'")

from pgqueue.push.bound import BoundPush
from pgqueue.push.push import Push

__all__ = ["BoundPush", "Push"]
