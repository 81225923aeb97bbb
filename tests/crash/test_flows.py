"""Random flows while workers are killed: nothing begins too soon, none is forgotten, and a redrive completes them."""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pgqueue import Flow
from pgqueue.flow import OnFailure
from tests.crash.fleet import LONG, Fleet, WorkerProcess, eventually
from tests.crash.shop import app, node

pytestmark = pytest.mark.crash

GRAPHS, KILL_EVERY, SECONDS = (50, 0.3, 2.0) if LONG else (6, 0.4, 0.1)
SURE: tuple[OnFailure, ...] = ("fail_parent", "ignore", "wait")
ANY: tuple[OnFailure, ...] = (*SURE, "run_parent", "cancel_siblings")
MOVING = """
    select (select count(*) from {schema}.jobs where state <> 'blocked')
         + (select count(*) from {schema}.flow_news) + (select count(*) from {schema}.flow_turns)
"""


@dataclass
class Member:
    """A job as it was enqueued, and as it is to end while nothing is fixed."""

    fails: bool
    after: dict[int, OnFailure] = field(default_factory=dict)
    state: str = ""
    sure: bool = True


def enqueue(chosen: random.Random, policies: tuple[OnFailure, ...]) -> dict[int, Member]:
    flow = Flow()
    members: list[Member] = []
    for n in range(chosen.randint(5, 25)):
        member = Member(chosen.random() < 0.2)
        for child in chosen.sample(range(n), min(n, chosen.randint(0, 3))):
            member.after[child] = chosen.choice(policies)
        members.append(member)
        after = {flow.nodes[child]: policy for child, policy in member.after.items()}
        flow.add(node.job(member.fails, chosen.random() * SECONDS), after=after)
    ids = [job.id for job in app.flows.enqueue(flow).jobs]
    for member in members:
        member.sure = policies is SURE
        edges = {edge(policy, members[child].state) for child, policy in member.after.items()}
        if "fails" in edges:
            member.state = "failed"
        elif "waits" in edges:
            member.state = "blocked"
        else:
            member.state = "failed" if member.fails else "completed"
        member.after = {ids[child]: policy for child, policy in member.after.items()}
    return dict(zip(ids, members, strict=True))


def edge(policy: str, state: str) -> str:
    """What a child that ends so is to its parent."""
    if state == "completed" or (policy == "ignore" and state == "failed"):
        return "done"
    return "waits" if state == "blocked" or policy == "wait" else "fails"


def rest(fleet: Fleet, workers: list[WorkerProcess], chosen: random.Random) -> int:
    """Kill a worker now and then, until nothing moves; how many were killed."""
    kills = 0
    while fleet.value(MOVING) > 0:
        threading.Event().wait(KILL_EVERY)
        if kills < GRAPHS * 3:
            victim = chosen.randrange(len(workers))
            workers[victim].kill()
            kills += 1
            workers[victim] = fleet.start(registered=False)
    return kills


def spans(fleet: Fleet) -> dict[int, list[tuple[int, int | None]]]:
    """When the runs of each job began and ended, in the host's clock; None: its process was killed."""
    found: dict[int, list[tuple[int, int | None]]] = defaultdict(list)
    for path in fleet.folder.glob("*.overlap"):
        begun: dict[str, int] = {}
        for line in path.read_text().splitlines():
            at, what, job_id, _ = line.split()
            if what == "begin":
                begun[job_id] = int(at)
            else:
                found[int(job_id)].append((begun.pop(job_id), int(at)))
        for job_id, began in begun.items():
            found[int(job_id)].append((began, None))
    return found


def test_flows_whose_workers_are_killed_end_as_they_should_and_complete_once_they_are_fixed(fleet: Fleet) -> None:
    chosen = random.Random(GRAPHS)
    workers = [fleet.start() for _ in range(3)]
    members: dict[int, Member] = {}
    for n in range(GRAPHS):
        members |= enqueue(chosen, SURE if n % 2 else ANY)
    kills = rest(fleet, workers, chosen)
    assert kills > 0

    states = dict(fleet.query("select job_id, coalesce(state, 'blocked') from {schema}.flow_jobs"))
    assert states.keys() == members.keys()
    ran = spans(fleet)
    for id_, member in members.items():
        if member.sure:
            assert states[id_] == member.state, f"job {id_} is {states[id_]}, and not {member.state}"
        edges = {child: policy for child, policy in member.after.items() if policy != "run_parent"}
        hurried = any(
            policy == "run_parent" and states[child] in ("failed", "cancelled")
            for child, policy in member.after.items()
        )
        if id_ in ran and not hurried:
            began = min(begin for begin, _ in ran[id_])
            for child, policy in edges.items():
                assert states[child] == "completed" or policy == "ignore", f"job {id_} ran without {child}"
                ends = [end for _, end in ran.get(child, ()) if end is not None]
                assert not ends or began > min(ends), f"job {id_} began before {child} had ended"
        unrun = states[id_] == "failed" and id_ not in ran
        failing = {states[child] for child, policy in edges.items() if policy != "ignore"} & {"failed", "cancelled"}
        assert not unrun or failing, f"job {id_} failed unrun, for no child"

    Path(fleet.folder, "fixed").touch()
    app.failed.redrive(sorted(id_ for id_, member in members.items() if states[id_] == "failed"))
    kills += rest(fleet, workers, chosen)
    states = dict(fleet.query("select job_id, coalesce(state, 'blocked') from {schema}.flow_jobs"))
    unfinished = {id_: states[id_] for id_, member in members.items() if member.sure and states[id_] != "completed"}
    assert unfinished == {}
    eventually(lambda: fleet.value("select count(*) from {schema}.claims") == 0, "claims are left")
    twice = sum(len(runs) - 1 for runs in spans(fleet).values())
    for name, figure in {"jobs": len(members), "kills": kills, "runs beyond the first": twice}.items():
        print(f"{name}: {figure}")
