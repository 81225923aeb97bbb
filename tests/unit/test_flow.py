"""Describing flows: shapes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from pgqueue import ArgumentError, Child, ChildFailed, Flow, WaitForChildren, batch, chain, chord, group, tree
from pgqueue.flow import OnFailure, Part
from pgqueue.job import Job, NewJob


def job(task: str) -> NewJob:
    return NewJob(task, "{}", "default")


def edges(flow: Flow) -> set[tuple[str, str]]:
    """Who waits for whom, by task."""
    plan = flow.plan()
    return {(plan.jobs[parent].task, plan.jobs[child].task) for parent, child, _ in plan.edges}


A, B, C, D = map(job, "abcd")


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        (chain(A, B, C), {("b", "a"), ("c", "b")}),
        (group(A, B), set()),
        (chord([A, B], C), {("c", "a"), ("c", "b")}),
        (chain(A, group(B, C), D), {("b", "a"), ("c", "a"), ("d", "b"), ("d", "c")}),
        (chain(group(A, B), group(C, D)), {("c", "a"), ("c", "b"), ("d", "a"), ("d", "b")}),
        (tree(A, tree(B, C), D), {("a", "b"), ("a", "d"), ("b", "c")}),
        (group(chain(A, B), C), {("b", "a")}),
        (chain(chain(A, B), chain(C, D)), {("b", "a"), ("c", "b"), ("d", "c")}),
        (batch([A, B], on_success=C), {("c", "a"), ("c", "b")}),
        (chain(batch([A], on_failure=C), D), {("c", "a"), ("d", "a")}),
    ],
)
def test_the_shapes_wait_for_whom_they_should(flow: Flow, expected: set[tuple[str, str]]) -> None:
    assert edges(flow) == expected


def test_children_come_before_their_parents_in_a_plan_and_places_lead_back() -> None:
    flow = Flow()
    last = flow.add(A, after=["first"])
    flow.add(B, name="first")
    plan = flow.plan()
    assert [one.task for one in plan.jobs] == ["b", "a"]
    assert [plan.jobs[place].task for place in plan.places] == ["a", "b"]
    assert repr(last) == "<Node 0 a>"


def test_each_edge_may_have_its_own_policy() -> None:
    flow = Flow()
    first, second = flow.add(A), flow.add(B)
    flow.add(C, after={first: "ignore", second: "run_parent", 7: "wait"}, on_failure="fail_parent")
    plan = flow.plan()
    assert {policy for *_, policy in plan.edges} == {"ignore", "run_parent"}
    assert plan.outside == ((plan.places[2], 7, "wait"),)


def test_jobs_that_exist_are_named_by_themselves_or_their_ids() -> None:
    flow = Flow()
    existing = Job(5, "default", "x", {}, "available", 0, 0, 25, None)  # type: ignore[arg-type]
    flow.add(A, after=[existing, 6])
    assert {job_id for _, job_id, _ in flow.plan().outside} == {5, 6}


@pytest.mark.parametrize(
    ("names", "shown"),
    [({"x": "x"}, "x after x"), ({"x": "y", "y": "x"}, "x after y after x"), ({"x": "y", "y": "z", "z": "x"}, "after")],
)
def test_a_cycle_is_refused_and_shown(names: dict[str, str], shown: str) -> None:
    flow = Flow()
    for name, after in names.items():
        flow.add(A, name=name, after=after)
    with pytest.raises(ArgumentError, match="cycle") as caught:
        flow.plan()
    assert shown in str(caught.value) or "y after x after y" in str(caught.value)


def test_an_unknown_name_is_refused_and_those_that_there_are_are_named() -> None:
    flow = Flow()
    flow.add(A, name="fetch")
    flow.add(B, after="fetsch")
    with pytest.raises(ArgumentError, match="'fetsch', which is no job of the flow: there are 'fetch'"):
        flow.plan()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Flow().plan(), "no jobs"),
        (lambda: Flow(""), "name of a flow"),
        (lambda: Flow(5), "name of a flow"),  # type: ignore[arg-type]
        (lambda: Flow("x\x00"), "printable"),
        (lambda: Flow().add("send"), "task.job"),  # type: ignore[arg-type]
        (lambda: Flow().add(A, after=B), "not enqueued"),  # type: ignore[arg-type]
        (lambda: Flow().add(A, after=[None]), "no job id"),  # type: ignore[list-item]
        (lambda: Flow().add(A, after=1.5), "no job id"),  # type: ignore[arg-type]
        (lambda: Flow().add(A, after=Flow().add(B)), "another flow"),
        (lambda: Flow().add(A, on_failure="explode"), "on_failure='explode' is not known"),  # type: ignore[arg-type]
        (lambda: Flow().add(A, after={1: "explode"}), "is not known"),  # type: ignore[dict-item]
        (lambda: Flow().add(A, name=""), "printable"),
        (lambda: chain(), "chain"),
        (lambda: group(), "group"),
        (lambda: chord([], A), "chord"),
        (lambda: batch([]), "batch"),
        (lambda: chain(A, 5), "no part of a flow"),  # type: ignore[arg-type]
        (lambda: WaitForChildren([]), "WaitForChildren"),
        (lambda: WaitForChildren("abc"), "no part of a flow"),  # type: ignore[arg-type]
        (lambda: Flow().add(A, on_failure="ignore"), "a: on_failure='ignore' says what .* waits for none: give after="),
        (lambda: WaitForChildren([A], on_failure="x"), "is not known"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(call: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        call()


def test_two_jobs_of_one_name_are_refused() -> None:
    flow = Flow("order 7")
    flow.add(A, name="x")
    with pytest.raises(ArgumentError, match="two jobs of <Flow 'order 7' of 1 jobs> are named 'x'"):
        flow.add(B, name="x")


def test_a_flow_is_good_for_several_others() -> None:
    part = chain(A, B)
    whole = group(part, part)
    assert (len(part), len(whole)) == (2, 4)
    assert len(whole.plan().edges) == 2


@pytest.mark.parametrize("children", [A, [A], (A, B), chain(A, B), [chain(A, B), C]])
def test_a_job_may_wait_for_jobs_and_flows(children: Part | list[Part]) -> None:
    assert WaitForChildren(children).plan.jobs


@pytest.mark.parametrize("policy", ["fail_parent", "ignore", "run_parent", "cancel_siblings", "wait"])
def test_every_policy_is_taken(policy: OnFailure) -> None:
    assert chain(A, B, on_failure=policy).plan().edges[0][2] == policy


def test_a_child_gives_its_result_or_says_why_there_is_none() -> None:
    assert Child(1, "a", None, "completed", '{"n": 1}').result == {"n": 1}
    assert Child(1, "a", None, "completed").result is None
    with pytest.raises(ChildFailed, match=r"job 1 \(a\) is failed, and has no result: KeyError: 'x'"):
        _ = Child(1, "a", None, "failed", None, {"type": "KeyError", "message": "'x'"}).result
    with pytest.raises(ChildFailed, match="has not ended"):
        _ = Child(1, "a", None, None).result
