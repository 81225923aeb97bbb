"""The queues that a worker serves: their slots, their claimers, their settings, and what hints reach them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from pgqueue.breaker import Of
from pgqueue.job import ClaimedJob
from pgqueue.outcome import Cancelled
from pgqueue.queries import claiming, fleet
from pgqueue.queries.breakers import with_breakers
from pgqueue.queries.finishing import Finished
from pgqueue.queries.gates import GateName
from pgqueue.queries.limiting import gates_of
from pgqueue.queries.limits import Templates
from pgqueue.task.options import PRIORITIES
from pgqueue.worker.chunks import GatheringSlots
from pgqueue.worker.claimer import Claimer
from pgqueue.worker.lanes import Lanes
from pgqueue.worker.queues import QueueSpec
from pgqueue.worker.slots import Slots
from pgqueue.worker.stopping import cancel
from pgqueue.worker.timeouts import timeout_of
from pgqueue.worker.upkeep import QueueSettings

if TYPE_CHECKING:
    from pgqueue.worker.worker import Worker

logger = logging.getLogger("pgqueue.worker")

NO_SETTINGS = QueueSettings()


class Rules(NamedTuple):
    """What holds for the jobs of a task in a queue. `own_retention`: the task itself says how long history is kept."""

    timeout: float | None
    keeps_history: bool
    own_retention: bool


class RuleBook(dict[tuple[str, str], Rules]):
    """Rules by the names of a task and a queue, each found when it is first asked for: every job asks."""

    def __init__(self, find: Callable[[str, str], Rules]) -> None:
        self._find = find

    def __missing__(self, names: tuple[str, str]) -> Rules:
        found = self[names] = self._find(*names)
        return found


class Serving:
    """Slots and a claimer for each queue that `spec` names; a glob takes up new queues as they appear."""

    def __init__(
        self,
        worker: Worker,
        spec: QueueSpec,
        *,
        only_own: bool,
        listen: bool,
        poll_interval: float,
        start: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
    ) -> None:
        self._worker = worker
        self._spec = spec
        self._only_own = only_own
        self._listen = listen
        self._poll_interval = poll_interval
        self._start = start
        self._settings: dict[str, QueueSettings] = {}
        self.rules = RuleBook(self._rules_of)
        self._templates: Templates = {}
        self._breakers: frozenset[Of] = frozenset()
        self._keeps_history = worker.app.keep_completed.keeps
        self._otherwise: frozenset[str] = frozenset()
        self.known_at_start: set[str] = set()
        self.slots: dict[str, Slots] = {}
        self.claimers: dict[str, Claimer] = {}
        self._claiming: set[asyncio.Task[Any]] = set()

    def read_settings(self, settings: dict[str, QueueSettings], names: set[str], templates: Templates) -> None:
        """Take over what the tables say; `names` are the queues that there are."""
        before = self.paused()
        self._settings = settings
        self.rules.clear()
        if self._worker.life.heartbeat is not None:
            self._worker.reporter.paused_are(self.slots, before, self.paused())
        for queue in self.paused() - before:
            if queue in self.slots:
                # A chunk may be gathered for long.
                self.release_unstarted(self.slots[queue])
        self._templates = templates
        self._otherwise = frozenset(
            name for name, one in settings.items() if one.keeps_history not in (None, self._keeps_history)
        )
        served = len(self.slots)
        for queue, count in self._spec.resolve(self.known_queues(names)).items():
            if queue not in self.slots and not self._worker.leaving:
                self._serve(queue, count)
        if len(self.slots) > served and self._worker.life.heartbeat is not None:
            self._start(self._record_queues())
        for queue, claimer in self.claimers.items():
            claimer.lifo = settings.get(queue, NO_SETTINGS).lifo
        self._tell_claimers()

    def read_breakers(self, breakers: Collection[Of]) -> None:
        """Take over which breakers the jobs of this worker have."""
        self._breakers = frozenset(breakers)
        self._tell_claimers()

    def _tell_claimers(self) -> None:
        for queue, claimer in self.claimers.items():
            claimer.templates = self._templates_of(queue)
            breakers = [of for of in self._breakers if of.scope == "task" or of.name == queue]
            claimer.gated = with_breakers(claimer.templates, breakers)
            claimer.guarded = bool(breakers)

    def _templates_of(self, queue: str) -> Templates:
        """Those that jobs of the queue can meet."""
        tasks = self._worker.app.tasks
        return {
            (scope, name): keys
            for (scope, name), keys in self._templates.items()
            if (name == queue if scope == "queue" else name in tasks)
        }

    @property
    def takes_up_queues(self) -> bool:
        """Whether queues that appear later may be its own."""
        return self._spec.has_globs and not self._only_own

    def known_queues(self, names: set[str]) -> set[str]:
        """What a glob is matched against."""
        app = self._worker.app
        own = {task.options.queue for task in app.tasks.values()} | set(app.declared_queues) | {"default"}
        return own if self._only_own else own | names

    def total_slots(self) -> int:
        """Of the queues that the code knows."""
        return sum(self._spec.resolve(self.known_queues(set())).values())

    def _rules_of(self, name: str, queue: str) -> Rules:
        """As the task says, else the queue, else the app."""
        task = self._worker.app.tasks[name]
        own = task.options.keep_completed
        kept = (queue in self._otherwise) is not self._keeps_history if own is None else own.keeps
        timeout = timeout_of(task, self._settings.get(queue, NO_SETTINGS).timeout, self._worker.app.timeout)
        return Rules(timeout, kept, own is not None)

    def gates_hit(self, job: ClaimedJob, key: str | None) -> tuple[GateName, ...]:
        """The gates of a job at limits with this key; none for None."""
        if key is None:
            return ()
        claimer = self.claimers.get(job.queue)
        names = [] if claimer is None else gates_of(job.queue, job.task, job.args, None, claimer.templates)
        found = [gate for gate in names if gate.key == key]
        # That of the task, where it has one: the queue's is for all its tasks.
        hit = tuple([gate for gate in found if gate.scope == "task"] or found)
        if not hit:
            logger.warning(
                "task %s hit a limit with key %r, which neither it nor its queue has: only job %d waits",
                job.task,
                key,
                job.id,
            )
        return hit

    def has_limits(self) -> bool:
        """Whether jobs here may have limits."""
        claimers = self.claimers.values()
        return self._worker.breakers.busy or any(claimer.limited or claimer.templates for claimer in claimers)

    def paused(self) -> set[str]:
        """Queues that were paused when their settings were last read."""
        return {queue for queue, settings in self._settings.items() if settings.paused}

    def ageing(self) -> dict[str, tuple[timedelta, int | None]]:
        """Of the queues whose waiting jobs' priorities age, after what time, and down to which."""
        settings = {queue: self._settings.get(queue, NO_SETTINGS) for queue in self.claimers}
        return {queue: (one.ageing, one.ageing_floor) for queue, one in settings.items() if one.ageing is not None}

    def aged(self, queue: str, priority: int, position: int) -> None:
        """A job of the queue waits there now."""
        if queue in self.claimers:
            self.claimers[queue].hint(priority, position)

    def is_empty(self, queue: str) -> bool:
        """Whether a queue has nothing more to run here, and nothing runs."""
        slots, claimer = self.slots.get(queue), self.claimers.get(queue)
        return (
            slots is not None and claimer is not None and claimer.has_nothing and not (slots.running or slots.waiting)
        )

    def known_claims(self) -> set[int]:
        """Fences of the claims that are held or under way."""
        under_way = {claimer.claiming for claimer in self.claimers.values() if claimer.claiming is not None}
        return set(self._worker.finisher.held) | under_way

    def lanes(self) -> dict[str, Lanes]:
        """By queue."""
        return {queue: claimer.lanes for queue, claimer in self.claimers.items()}

    def hint(self, kind: str, words: list[str]) -> None:
        """A notification: a word that says what happened, and where."""
        match kind, words:
            case "available", [queue, priority, position] if queue in self.claimers:
                if int(priority) not in PRIORITIES:
                    raise ValueError(f"{priority} is no priority")
                self.claimers[queue].hint(int(priority), int(position))
            case "scheduled", [queue] if queue in self.claimers:
                self._worker.duties.promoter.wake()
            case "ready", [queue] if queue in self.claimers:
                self.claimers[queue].let_go()
            case "limits", []:
                # One was made, changed or lifted, or a place has been given back.
                self._worker.duties.settings.wake()
                self._worker.duties.breakers.changed()
                self._worker.duties.gatekeeper.open()
                self._hold_back_no_more()
            case "flows", []:
                self._worker.duties.flows.wake()
            case "resumed", [queue] if queue in self.claimers:
                self.wake(queue, sweep=True)
                self._worker.duties.settings.wake()
            case "cancel", [_]:
                # Anybody can send a notification: the table says what was cancelled.
                self._worker.duties.cancellations.wake()
            case "asked", [worker] if worker == str(self._worker.id):
                self._worker.duties.asked.wake()

    def wake(self, queue: str, *, sweep: bool = False) -> None:
        if queue in self.claimers:
            self.claimers[queue].wake(sweep=sweep)

    def freed(self) -> None:
        """Jobs of this worker have given places back: who waits for them can go on."""
        self._worker.duties.gatekeeper.freed()
        self._hold_back_no_more()

    def _hold_back_no_more(self) -> None:
        for claimer in self.claimers.values():
            claimer.freed()

    def sweep_all(self) -> None:
        """Nobody knows what was missed."""
        self._worker.duties.cancellations.wake()
        self._worker.duties.asked.wake()
        for queue in self.claimers:
            self.wake(queue, sweep=True)

    def gathered(self) -> list[int]:
        """Ids of the jobs that wait in a chunk."""
        return [job_id for slots in self.slots.values() if isinstance(slots, GatheringSlots) for job_id in slots.ids()]

    def cancel_gathered(self, job_id: int) -> bool:
        """End a job that waits in a chunk as cancelled; False where it does not."""
        for slots in self.slots.values():
            job = slots.drop(job_id) if isinstance(slots, GatheringSlots) else None
            if job is not None:
                self._worker.executor.end_unstarted(job, Cancelled("cancelled before it began"))
                return True
        return False

    def begin_life(self) -> None:
        """The worker has a new row: no queue is recorded idle there."""
        for claimer in self.claimers.values():
            claimer.begin_life()

    def close_slots(self) -> None:
        """Start nothing more."""
        for slots in self.slots.values():
            slots.open = False

    async def end_claims(self) -> None:
        """Claim nothing more, and give back whatever has not started."""
        self.close_slots()
        self.release_all()
        await cancel(self._claiming)
        # What a claimer took while it was being ended.
        self.release_all()

    def release_standing(self) -> None:
        """Give back what waits for slots that do not come free."""
        for slots in self.slots.values():
            if slots.is_standing():
                slots.aim()
                self.release_unstarted(slots)

    def release_all(self) -> None:
        """Give back whatever has not started."""
        self._worker.quarantine.release()
        for slots in self.slots.values():
            self.release_unstarted(slots)

    def release_unstarted(self, slots: Slots) -> None:
        for job in slots.give_back():
            self._give_back(job)

    def release_unstarted_of(self, which: Callable[[ClaimedJob], bool]) -> None:
        """Give back those that have not started, in every queue."""
        for slots in self.slots.values():
            for job in slots.give_back(which):
                self._give_back(job)

    def _give_back(self, job: ClaimedJob) -> None:
        self._worker.finisher.add(Finished(job.id, job.fence, job.task, None, limited=job.limited))

    def _serve(self, queue: str, count: int) -> None:
        worker = self._worker
        slots = self.slots[queue] = self._slots_of(queue, count)
        claimer = self.claimers[queue] = Claimer(
            worker.claiming,
            worker.app.schema,
            slots,
            worker.app.tasks.names,
            worker.app.tasks.aliases,
            lambda: worker.id,
            worker.life.registered,
            worker.finisher,
            poll_interval=self._poll_interval,
            set_idle=self._set_idle,
            suspect=worker.quarantine.take,
            claim_failed=worker.duties.reconciler.wake,
            on_parked=worker.duties.gatekeeper.freed,
            found_nothing=worker.reporter.look_at,
            on_claimed=None if worker.metrics is None else worker.metrics.claimed,
        )
        self._claiming.add(self._start(claimer.run()))

    def _slots_of(self, queue: str, count: int) -> Slots:
        executor = self._worker.executor
        chunks = {name: task.chunk for name, task in self._worker.app.tasks.items() if task.chunk is not None}
        if not chunks:
            return Slots(queue, count, executor.start, self._give_back)
        return GatheringSlots(
            queue,
            count,
            executor.start,
            self._give_back,
            chunks=chunks,
            start_chunk=executor.start_chunk,
            runs_alone=self._worker.quarantine.runs_alone,
            hurries=lambda: self._worker.hurries,
        )

    async def _record_queues(self) -> None:
        worker = self._worker
        await worker.life.registered.wait()
        await worker.services.insist(fleet.record_queues(worker.app.schema, worker.id, worker.queues))

    async def _set_idle(self, queue: str, idle: bool) -> None:
        if self._listen:
            worker = self._worker
            mark = fleet.mark_idle if idle else fleet.mark_busy
            await worker.claiming.fetch(mark(worker.app.schema, worker.id, queue))
            if idle:
                # Before the claimer looks a last time: what has ended by then, it finds.
                worker.duties.latecomers.expect(
                    await worker.claiming.fetch(claiming.writers_of_jobs(worker.app.schema))
                )
