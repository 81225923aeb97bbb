"""What the benchmarks' page says of a results file."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from benchmarks.ledgers import Ledgers, Tally
from benchmarks.peers.ledger import Ledger
from benchmarks.peers.setting import Setting
from benchmarks.report import losses, machine, missing, target_table
from benchmarks.results import Results, Run
from benchmarks.spread import percentiles
from benchmarks.targets import targets

MACHINE: dict[str, Any] = {
    "cpu": "a processor",
    "cores": 2,
    "memory_gb": 4,
    "system": "Linux",
    "syncs_per_second": 1000,
    "python": "3.11",
    "psycopg": "3.3",
    "pgqueue": "0.1 (abc)",
    "postgresql": {"server_version": "18", "fsync": "on"},
    "redis": None,
    "command": "python -m benchmarks short",
    "load": [0.5, 0, 0],
}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    made = Results(tmp_path / "results.jsonl")
    made.begin(MACHINE)
    return made


def drained(results: Results, contender: str, rate: float, round: int = 1, **figures: Any) -> None:
    told = {"jobs": 1000, "rate": rate, "lost": 0, "doubled": 0, "capped": False} | figures
    results.add(Run("drain", contender, {"jobs": 1000}, round), figures=told)


def bare(results: Results, rate: float, round: int = 1) -> None:
    given = {"jobs": 1000, "mode": "history"}
    results.add(Run("bare_loop", "bare", given, round), figures={"jobs": 1000, "rate": rate})


def verdicts(results: Results) -> dict[str, tuple[str, str]]:
    return {each.what: (each.ratio, each.verdict) for each in targets(results)}


def test_a_run_stands_until_it_has_figures(results: Results) -> None:
    run = Run("drain", "pgboss", {"jobs": 1000})
    results.add(run, error="it broke")
    assert not results.has(run)
    drained(results, "pgboss", 10.0)
    again = Results(results.path)
    assert again.has(run)
    assert again.values("drain", "pgboss", "rate") == [10.0]


def test_a_target_is_met_or_missed_by_the_median_of_the_rounds(results: Results) -> None:
    for round, (own, least) in enumerate([(60.0, 100.0), (80.0, 100.0), (90.0, 100.0)], 1):
        drained(results, "pgqueue", own, round)
        bare(results, least, round)
    drained(results, "pgboss", 50.0)
    found = verdicts(results)
    assert found["drain against the bare loop, history"] == ("0.80 (0.60–0.90)", "pass")
    assert found["drain with history against pg-boss"] == ("1.60", "MISS")
    assert found["drain without history against Graphile Worker"] == ("–", "not measured")


def test_rounds_are_compared_with_their_own_bare_loop(results: Results) -> None:
    bare(results, 100.0, 1)
    bare(results, 10.0, 2)
    drained(results, "pgqueue", 10.0, 2)
    drained(results, "pgqueue", 50.0, 1)
    assert verdicts(results)["drain against the bare loop, history"] == ("0.75 (0.50–1.00)", "pass")


def test_what_was_lost_or_doubled_is_said_of_every_scenario(results: Results) -> None:
    drained(results, "pgboss", 10.0)
    assert losses(results) == "No contender lost or doubled one of 1,000 jobs."
    drained(results, "graphile", 10.0, lost=3)
    results.add(Run("backlog", "awa", {}), figures={"jobs": 500, "rate": 1.0, "doubled": 2})
    results.add(Run("beside", "pgqueue", {}), figures={"jobs": 300, "lost": 1, "doubled": 0})
    said = losses(results)
    assert "Graphile Worker, tuned: 3 lost, 0 doubled" in said
    assert "awa: 0 lost, 2 doubled" in said
    assert "pgqueue, with history: 1 lost, 0 doubled" in said


def test_a_run_that_its_limit_ended_is_named(results: Results) -> None:
    drained(results, "chancy", 10.0, capped=True)
    results.add(
        Run("pinned", "chancy", {}), figures={"churned": 9, "lost": 0, "doubled": 0, "pinned": {"capped": True}}
    )
    assert losses(results).endswith("Chancy (2).")


def test_each_sitting_says_what_ran_in_it(results: Results) -> None:
    drained(results, "pgboss", 10.0)
    results.begin({**MACHINE, "pgqueue": "0.1 (def)"})
    results.begin({**MACHINE, "pgqueue": "0.1 (ghi)"})
    drained(results, "pgqueue", 10.0)
    drained(results, "pgqueue", 11.0, 2)
    for read in (results, Results(results.path)):
        said = machine(read)
        assert said.count("a processor") == 1
        assert "0.1 (abc)" in said
        assert "1 runs (pgboss 1)" in said
        assert "0.1 (def)" not in said
        assert "2 runs (pgqueue 2)" in said


def test_what_could_not_be_measured_is_listed_until_it_is(results: Results) -> None:
    results.add(Run("drain", "pgboss", {"jobs": 1000}), error="node: it broke")
    assert missing(results) == "- not measured: pg-boss: node: it broke (drain)"
    drained(results, "pgboss", 10.0)
    assert missing(results) == ""


def test_a_table_of_targets_can_be_made_of_nothing(results: Results) -> None:
    assert "not measured" in target_table(results)


@pytest.mark.parametrize(("knot", "value"), [("p50", 50), ("p95", 95), ("p99", 99), ("max", 100)])
def test_a_percentile_is_the_least_that_so_many_do_not_exceed(knot: str, value: int) -> None:
    assert percentiles(list(range(100, 0, -1)))[knot] == value
    assert percentiles([7.0])[knot] == 7.0


def test_ledgers_of_several_processes_add_up(tmp_path: Path) -> None:
    (tmp_path / "1.runs").write_bytes(bytes([1, 0, 1, 0, 0]))
    (tmp_path / "2.runs").write_bytes(bytes([0, 0, 1, 2]))
    tally = Ledgers(tmp_path).tally(0, 5)
    assert (tally.ran, tally.lost, tally.doubled) == (3, 2, 2)
    assert Ledgers(tmp_path).tally(3, 2).lost == 1


def test_the_published_results_can_be_read() -> None:
    published = Path(__file__).parents[2] / "docs" / "benchmarks" / "results.jsonl"
    results = Results(published)
    assert len(results.runs) == sum("key" in json.loads(line) for line in published.read_text().splitlines()) > 100
    assert not [line for line in results.runs if "figures" in line and line["figures"].get("lost")]


def test_threads_that_begin_together_write_one_ledger(tmp_path: Path) -> None:
    jobs = 16
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        ledger = Ledger(Setting("", "", str(folder), jobs, True, 0.0, 0, {}))
        together = Barrier(jobs)

        def run(number: int, ledger: Ledger = ledger, together: Barrier = together) -> None:
            together.wait()
            ledger.hit(number)

        with ThreadPoolExecutor(jobs) as threads:
            list(threads.map(run, range(jobs)))
        assert Ledgers(folder).tally(0, jobs) == Tally(jobs, 0, 0)
        assert all(Ledgers(folder).times(0, jobs))
