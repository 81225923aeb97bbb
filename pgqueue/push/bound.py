"""How a delivery is enqueued."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pgqueue.job import Job, NewJob
from pgqueue.push import request as requests
from pgqueue.push.request import Rules
from pgqueue.push.signing import checked_id
from pgqueue.task import BoundTask


class BoundPush:
    """Where requests are enqueued, with the options of `Push.using`."""

    def __init__(self, rules: Rules, task: BoundTask[..., Any]) -> None:
        self._rules = rules
        self._task = task

    def job(
        self,
        url: str,
        body: Any = None,
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> NewJob:
        """A delivery, checked, not enqueued; for `app.enqueue_many`.

        `body` is sent as JSON; text and bytes go as they are, and need a Content-Type among the `headers`, which are
        stored with the job. `id` is the message's, for the receiver to know it by: without one it follows from the job,
        and is the same in all its attempts. Raises ArgumentError.
        """
        return self._task.job(**self._given(url, body, method, headers, id))

    def _given(
        self, url: str, body: Any, method: str, headers: Mapping[str, str] | None, id: str | None
    ) -> dict[str, Any]:
        written = requests.written(body, requests.checked_headers(headers or {}))
        request = requests.checked(self._rules, url, written, method, headers)
        given: dict[str, Any] = {"url": str(request.url), "host": request.host}
        if written is not None:
            given["body" if isinstance(written, str) else "data"] = written
        if method != "POST":
            given["method"] = method
        if headers:
            given["headers"] = dict(headers)
        if id is not None:
            given["id"] = checked_id(id)
        return given

    def enqueue(
        self,
        url: str,
        body: Any = None,
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> Job:
        """Enqueue a delivery: of `body`, as JSON, to `url`. Options as in `job`, errors as in `Task.enqueue`.

        push.enqueue("https://example.com/hook", {"order": 7}, headers={"X-Shop": "7"})
        """
        new = self._task.new_job(**self._given(url, body, method, headers, id))
        return self._task.task.app.inserter.insert([new], self._task.connection)[0]

    async def aenqueue(
        self,
        url: str,
        body: Any = None,
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> Job:
        """As `enqueue`."""
        new = self._task.new_job(**self._given(url, body, method, headers, id))
        return (await self._task.task.app.inserter.ainsert([new], self._task.connection))[0]
