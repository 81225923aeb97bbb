"""The picture of a flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pgqueue.queries.flows import FlowEdge, FlowJob
from pgqueue.web.graph import HEIGHT, WIDTH, Box, Picture, drawn


def picture(waits: Mapping[int, Sequence[int]], tasks: Mapping[int, str] = {}) -> Picture:
    """Of a flow whose jobs wait for others; each job has a task of its own unless `tasks` says otherwise."""
    ids = sorted({*waits, *(child for children in waits.values() for child in children)})
    jobs = [FlowJob(id_, tasks.get(id_, f"task{id_}"), "q", None, "blocked", (), None, 0, None) for id_ in ids]
    return drawn(jobs, [FlowEdge(p, c, "fail_parent", None) for p, children in waits.items() for c in children])


def box(found: Picture, job_id: int) -> Box:
    return next(one for one in found.boxes if any(job.job_id == job_id for job in one.jobs))


def test_each_job_stands_to_the_right_of_all_that_it_waits_for() -> None:
    waits = {2: [1], 3: [2], 4: [1, 3], 5: [2, 4]}
    found = picture(waits)
    assert all(box(found, c).x + WIDTH < box(found, p).x for p, children in waits.items() for c in children)
    assert len(found.lines) == 6


def test_no_box_covers_another_and_all_are_within_the_picture() -> None:
    found = picture({9: [1, 2, 3], 10: [1, 2], 11: [9, 10, 3]})
    for one in found.boxes:
        assert one.x >= 0
        assert one.x + WIDTH <= found.width
        assert one.y >= 0
        assert one.y + HEIGHT <= found.height
        for other in found.boxes:
            assert one is other or one.x != other.x or abs(one.y - other.y) >= HEIGHT


def test_a_line_that_passes_a_layer_does_not_run_behind_its_boxes() -> None:
    found = picture({2: [1], 3: [2, 1]})
    straight = next(line for line in found.lines if line.title.startswith("3 waits for 1"))
    passed = float(straight.path.split("H")[0].rsplit(",", 1)[1])
    assert abs(passed - (box(found, 2).y + HEIGHT / 2)) >= HEIGHT / 2


def test_lines_do_not_cross_where_they_need_not() -> None:
    found = picture({4: [1], 5: [2], 6: [3], 7: [6], 8: [5], 9: [4]})
    for first in (1, 2, 3):
        ys = {1: (1, 4, 9), 2: (2, 5, 8), 3: (3, 6, 7)}[first]
        assert len({box(found, one).y for one in ys}) == 1


def test_jobs_that_are_alike_are_one_box_with_their_counts() -> None:
    found = picture({2000: range(1, 1001)}, dict.fromkeys(range(1, 1001), "resize"))
    assert [(one.label, len(one.jobs)) for one in found.boxes] == [("resize × 1,000", 1000), ("task2000", 1)]
    assert box(found, 1).note == "1,000 blocked"
    assert len(found.lines) == 1


def test_a_job_of_another_flow_is_drawn_without_a_state() -> None:
    found = drawn([FlowJob(5, "ship", "q", None, "blocked", (4,), None, 0, None)], [FlowEdge(5, 4, "ignore", None)])
    assert (box(found, 4).label, box(found, 4).state) == ("of another flow", "")


def test_a_ring_which_cannot_be_is_drawn_all_the_same() -> None:
    assert len(picture({1: [2], 2: [1]}).boxes) == 2


def test_nothing_is_drawn_of_nothing() -> None:
    assert drawn([], []).boxes == ()
