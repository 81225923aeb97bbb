"""Claims for one queue: as much as its slots and a little prefetch can take, lane by lane, from the marks on."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import UUID

from pgqueue.admission import HORIZON
from pgqueue.job import ClaimedJob
from pgqueue.queries import claiming, flows, limiting
from pgqueue.queries.finishing import Finished
from pgqueue.queries.limits import Templates
from pgqueue.queries.statement import Operation
from pgqueue.worker.connection import TRANSIENT, WorkerConnection, pauses
from pgqueue.worker.finisher import Finisher
from pgqueue.worker.lanes import Lane, Lanes
from pgqueue.worker.quarantine import is_suspect
from pgqueue.worker.slots import Slots

logger = logging.getLogger("pgqueue.worker")

BATCH = 500
LOOK_AT = 50
BACKLOG = 5_000
SWEEP_SHARE = 50
SWEEP_LONGEST = 60.0
BUSY_AFTER = 0.2
GATHER_LONGEST = 0.005
SMOOTHING = 0.1
LEAD_LONGEST = 1.0


class Claimer:
    """One queue's claims. `wake()` after a hint; without hints it polls."""

    def __init__(
        self,
        connection: WorkerConnection,
        schema: str,
        slots: Slots,
        tasks: Sequence[str],
        aliases: Mapping[str, str],
        worker: Callable[[], UUID],
        registered: asyncio.Event,
        finisher: Finisher,
        *,
        poll_interval: float,
        set_idle: Callable[[str, bool], Awaitable[None]],
        suspect: Callable[[ClaimedJob], None],
        claim_failed: Callable[[], None],
        on_parked: Callable[[], None],
        found_nothing: Callable[[str], None],
        on_claimed: Callable[[str, float], None] | None = None,
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._slots = slots
        self._tasks = list(tasks)
        self._aliases = aliases
        self._worker = worker
        self._registered = registered
        self._finisher = finisher
        self._poll_interval = poll_interval
        self._set_idle = set_idle
        self._suspect = suspect
        self.claim_failed = claim_failed
        self._on_parked = on_parked
        self._found_nothing = found_nothing
        # Called with the queue, and the seconds that a claim took.
        self._on_claimed = on_claimed
        self._ages = on_claimed is not None
        # When a look or a claim last succeeded; for ever while it has no room for jobs, and nothing to look for.
        self.looked_at = time.monotonic()
        self._woken = asyncio.Event()
        self._sweep_at = 0.0
        self._hinted = False
        self._idle = False
        # Whether its last look found nothing, and no other is under way.
        self.is_empty = False
        # Whether it had to leave jobs where they are: the queue is paused, they are held back, or wait for a slot.
        self._left_some = False
        self._busy_since: float | None = None
        # How many jobs a claim finds, lately.
        self._per_claim = 1.0
        self.lanes = Lanes()
        self.templates: Templates = {}
        # With those of the breakers that its jobs can meet, closed or not; `guarded` says that there are some.
        self.gated: Templates = {}
        self.guarded = False
        # Whether it has met a job with a serial key, or one that a limit has let go.
        self._met_limits = False
        # In how many seconds the limit of the queue lets more begin, where it has refused.
        self._held_back: float | None = None
        self._parked = self._fair = False
        # Seconds from the decision of a claim until its jobs are here, as they were lately.
        self._lead = 0.01
        self.lifo = False
        self.claiming: int | None = None

    def wake(self, *, sweep: bool = False) -> None:
        """Look again now; `sweep` when nobody knows where."""
        if sweep:
            self._sweep_at = 0.0
        self._woken.set()

    def hint(self, priority: int, position: int) -> None:
        """A job became available there."""
        self.lanes.rewind(priority, position)
        self._hinted = True
        if self._held_back is None:
            self._woken.set()

    def let_go(self) -> None:
        """A limit has let a job of the queue go, or would let one begin."""
        self._met_limits = True
        self._woken.set()

    def freed(self) -> None:
        """Jobs of this worker have given places back."""
        if self._held_back is not None:
            self._woken.set()

    def begin_life(self) -> None:
        """The worker has registered anew: its row says of no queue that it is idle, and jobs may have come back."""
        self._idle = False
        self.wake(sweep=True)

    @property
    def has_nothing(self) -> bool:
        """Whether there is nothing to run, as far as it knows."""
        return self.is_empty and not self._woken.is_set()

    async def run(self) -> None:
        """Claim for ever."""
        pause = pauses()
        while True:
            try:
                if not self._slots.room.is_set():
                    self.looked_at = math.inf
                    await self._slots.room.wait()
                    self.looked_at = time.monotonic()
                self._woken.clear()
                self.is_empty = False
                began = time.monotonic()
                found = await self.run_once()
                self.looked_at = time.monotonic()
                if not found or self._held_back is not None:
                    self._slots.found_nothing()
                if found:
                    took = time.monotonic() - began
                    await self._busy()
                    if self._held_back is not None:
                        await self._wait()
                        continue
                    if self._wanted() > 0:
                        # That was all: let the next ones come together, a claim of one costs what one of ten does.
                        self._per_claim += (found - self._per_claim) * SMOOTHING
                        await asyncio.sleep(min(self._per_claim * took, GATHER_LONGEST))
                    continue
                if not self._slots.room.is_set():
                    # What is left must not repeat, and waits for a slot.
                    continue
                if not self._idle:
                    # Whoever enqueued before it saw this worker idle sent no hint: look once more before waiting.
                    await self._registered.wait()
                    life = self._worker()
                    await self._set_idle(self._slots.queue, True)
                    # What was written to a row that is gone meanwhile is written anew.
                    self._idle = life == self._worker()
                    self._busy_since = None
                    # Also in lanes that are not known yet.
                    self._sweep_at = 0.0
                    continue
                pause = pauses()
            except TRANSIENT as error:
                logger.info(
                    "a claim of %s failed: %s",
                    self._slots.queue,
                    (str(error).strip() or type(error).__name__).splitlines()[0],
                )
                self.claim_failed()
                # The server may be another now, and its sequence behind: marks of the one before prove nothing.
                self.lanes = Lanes()
                # Nor need it have kept that the worker is idle.
                self._idle = False
                await asyncio.sleep(next(pause))
                self.wake(sweep=True)
                continue
            self._busy_since = None
            if not self._left_some:
                self.is_empty = True
                self._found_nothing(self._slots.queue)
            await self._wait()

    async def run_once(self) -> int:
        """A sweep if one is due, and a pass over the lanes; returns how many jobs it took."""
        hinted, self._hinted = self._hinted, False
        self._left_some = False
        due = time.monotonic() >= self._sweep_at
        if due and not hinted:
            await self.sweep()
        taken = await self._pass()
        if due and hinted:
            # A hint has said where to look: what it told of need not wait for the sweep.
            await self.sweep()
            taken += await self._pass()
        return taken

    @property
    def limited(self) -> bool:
        """Whether the queue has limits, or it has met jobs whose task has some, or that have a serial key."""
        return self._met_limits or any(scope == "queue" for scope, _ in self.templates)

    async def _pass(self) -> int:
        self._held_back = None
        taken = 0
        lanes = self.lanes.ordered()
        if self.limited and not lanes:
            # There may still be jobs that a limit has let go.
            return await self._take_ready()
        for priority, lane in lanes:
            unsorted = False
            while (count := self._wanted()) > 0 or unsorted:
                began_at = lane.mark
                scan = await self._claim(priority, lane, count)
                if scan.paused:
                    self._left_some = True
                    return taken
                if scan.limited:
                    self._met_limits = True
                    return taken + await self._pass()
                taken += len(scan.jobs) + len(scan.ready)
                self._held_back = scan.again_in
                # Who has a share that is not used may be behind thousands of somebody else's.
                unsorted = scan.fair and scan.full and scan.parked > 0 and scan.left_from is None
                if lane.mark < began_at:
                    # It ran ahead of a long writer that has ended now: what that one left lies in between.
                    continue
                if scan.again_in is not None and not scan.went:
                    self._left_some = True
                    return taken
                if scan.left_from is not None and not (scan.jobs and self._slots.idle):
                    # What is left there must not repeat, or has a limit: it is taken when a slot is free.
                    self._slots.prefetch_nothing()
                    self._left_some = True
                    return taken
                if not scan.full:
                    break
            if self._wanted() <= 0:
                break
        return taken

    async def sweep(self) -> None:
        """Find every lane in which something waits, and rewind its mark to there; rarer the more it costs."""
        self._sweep_at = math.inf
        found = await self._connection.fetch(claiming.lanes(self._schema, queue=self._slots.queue, tasks=self._tasks))
        cost = self._connection.took * SWEEP_SHARE
        self.lanes.swept(found)
        self._slots.prefetches = True
        # Where none is left it claims as if there were no limits again.
        self._met_limits = any(lane.priority is None for lane in found)
        # Unless another sweep was asked for meanwhile.
        if self._sweep_at == math.inf:
            pause = min(max(cost, self._poll_interval), SWEEP_LONGEST)
            self._sweep_at = time.monotonic() + pause * random.uniform(0.8, 1.2)

    def _wanted(self) -> int:
        return min(BATCH, self._slots.wanted())

    async def _claim(self, priority: int, lane: Lane, count: int) -> claiming.Scan:
        mark, lifo = lane.mark, self.lifo
        if self.limited:
            scan = await self._claim_limited(limiting.Lane(priority, mark, lane.known), count)
        else:
            tasks = {name for scope, name in self.templates if scope == "task"}
            tasks |= {alias for alias, name in self._aliases.items() if name in tasks}
            scan = await self._hold(
                lambda fence, worker: claiming.claim(
                    self._schema,
                    queue=self._slots.queue,
                    priority=priority,
                    mark=mark,
                    known=lane.known,
                    tasks=self._tasks,
                    count=count,
                    slots=self._slots.idle,
                    fence=fence,
                    worker=worker,
                    lifo=lifo,
                    limited=tasks,
                    guarded=self.guarded,
                    aliases=self._aliases,
                    ages=self._ages,
                )
            )
        lane.observe(scan, mark, lifo=lifo)
        return scan

    async def _take_ready(self) -> int:
        """Jobs that a limit has let go."""
        count = self._wanted()
        return len((await self._claim_limited(None, count)).ready) if count > 0 else 0

    async def _claim_limited(self, lane: limiting.Lane | None, count: int) -> claiming.Scan:
        slots = min(count, self._slots.claimable)
        scan = await self._hold(
            lambda fence, worker: limiting.claim_limited(
                self._schema,
                queue=self._slots.queue,
                lane=lane,
                tasks=self._tasks,
                # Where jobs are refused it looks further, for some that are not.
                count=BATCH if self._fair else min(BATCH, max(LOOK_AT, 4 * count) if self._parked else count),
                slots=slots,
                prefetch=count - slots,
                fence=fence,
                worker=worker,
                lifo=self.lifo,
                templates=self.gated,
                aliases=self._aliases,
                lead=self._lead,
                ages=self._ages,
            ),
            atomic=True,
        )
        if scan.decided_at is not None:
            self._lead = min(LEAD_LONGEST, max(1.5 * (time.monotonic() - scan.decided_at), 0.9 * self._lead))
        if scan.left_from is not None and len(scan.jobs) + len(scan.ready) < count:
            # Limits of this kind keep nothing for later: until the next sweep it asks for no more than begins at once.
            self._slots.prefetches = False
            self._slots.prefetch_nothing()
        self._parked, self._fair = scan.parked > 0, scan.fair
        if self._parked:
            # Places may have been freed since: nobody was there yet to let go.
            self._on_parked()
        return scan

    async def _hold(
        self, operation: Callable[[int, UUID], Operation[claiming.Scan]], *, atomic: bool = False
    ) -> claiming.Scan:
        """Run a claim under a fence of its own, and hand its jobs to the slots."""
        # What is claimed runs and has an outcome: while those cannot be written as fast, more would pile up.
        await self._finisher.relieved(BACKLOG)
        # A claim of a worker without a row is an orphan: others would take it at once.
        await self._registered.wait()
        fence = secrets.randbits(63)
        worker = self._worker()
        self.claiming = fence
        began = time.perf_counter()
        try:
            scan = await self._connection.run(operation(fence, worker), atomic=atomic)
            self.looked_at = time.monotonic()
            if self._on_claimed is not None:
                self._on_claimed(self._slots.queue, time.perf_counter() - began)
            jobs = [*scan.ready, *scan.jobs] if scan.ready else scan.jobs
            if self._aliases:
                for job in jobs:
                    job.task = self._aliases.get(job.task, job.task)
            if jobs:
                self._finisher.claimed(fence, [job.id for job in jobs])
        finally:
            self.claiming = None
        jobs = await self._with_children(jobs)
        if worker != self._worker():
            for job in jobs:
                self._finisher.add(Finished(job.id, job.fence, job.task, None, limited=job.limited))
            return scan
        # Few jobs are any of this, and a look at two numbers costs less than a call.
        suspects = [job for job in jobs if (job.crashes or job.suspicions) and is_suspect(job)]
        for job in suspects:
            self._suspect(job)
        self._slots.take([job for job in jobs if not is_suspect(job)] if suspects else jobs)
        return scan

    async def _with_children(self, jobs: list[ClaimedJob]) -> list[ClaimedJob]:
        """Tell those that have waited for others what these came to; who cannot be told now is given back."""
        parents = {job.id: job for job in jobs if job.options is not None and job.option("children")}
        if not parents:
            return jobs
        try:
            found = await self._connection.run(flows.children(self._schema, sorted(parents)))
        except TRANSIENT as error:
            logger.warning("%d jobs are given back, since what they waited for cannot be read: %s", len(parents), error)
            for job in parents.values():
                self._finisher.add(Finished(job.id, job.fence, job.task, None, limited=job.limited))
            return [job for job in jobs if job.id not in parents]
        for id_, children in found.items():
            parents[id_].children = children
        return jobs

    async def _busy(self) -> None:
        now = time.monotonic()
        if self._busy_since is None:
            self._busy_since = now
        elif self._idle and now - self._busy_since > BUSY_AFTER:
            self._idle = False
            await self._set_idle(self._slots.queue, False)

    async def _wait(self) -> None:
        # Fleets that started together would poll together.
        pause = self._poll_interval * random.uniform(0.8, 1.2)
        if self._held_back is not None:
            # When the next may begin within the horizon, it can be claimed.
            pause = min(pause, max(HORIZON / 2, self._held_back - HORIZON / 2))
        try:
            async with asyncio.timeout(pause):
                await self._woken.wait()
        except TimeoutError:
            return
