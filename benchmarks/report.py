"""The tables, as Markdown that also reads well in a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from benchmarks.contenders import BY_NAME, CONTENDERS, Contender
from benchmarks.results import Results
from benchmarks.spread import Spread
from benchmarks.targets import plain_drains, pooled, targets

NOTHING = "–"


def summary(results: Results) -> str:
    """What a short set shows."""
    if not results.machines:
        return "nothing was measured yet"
    parts = ["## Targets", target_table(results), "## Side by side", peer_table(results), losses(results)]
    return "\n\n".join(part for part in (*parts, missing(results), machine(results)) if part)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns are as wide as what they hold; the first is text, the others figures."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [
        "| "
        + " | ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 1) + (":" if column else "-") for column, width in enumerate(widths)) + "|"
    return "\n".join([text[0], rule, *text[1:]])


def target_table(results: Results) -> str:
    rows = [
        (
            each.what,
            each.measured or NOTHING,
            each.ratio,
            f"{'≥' if each.at_least else '≤'} {each.bound:g}",
            each.verdict,
        )
        for each in targets(results)
    ]
    return table(("pgqueue, in this run", "measured", "ratio", "target", ""), rows)


def peer_table(results: Results) -> str:
    head = (
        "jobs a second; median (lowest–highest)",
        "version",
        "enqueue one",
        "bulk",
        "drain",
        "pickup p50/p95/p99/max ms",
        "from the call's end p50/p99",
        "under a snapshot (ratio; churned)",
        "CPU µs a job: worker/server",
    )
    return table(head, [_peer(results, each) for each in CONTENDERS if _was_tried(results, each)])


def losses(results: Results) -> str:
    """Who lost or doubled a job, in all runs; the figures are an independent ledger's."""
    ran = 0
    bad: list[str] = []
    cut: Counter[str] = Counter()
    for line in results.runs:
        figures = line.get("figures", {})
        if "doubled" not in figures:
            continue
        title = BY_NAME[line["contender"]].title
        ran += figures.get("jobs", 0)
        lost, doubled = figures.get("lost", 0), figures["doubled"]
        if lost or doubled:
            bad.append(f"{title}: {lost} lost, {doubled} doubled in {line['key']}")
        if figures.get("capped") or figures.get("pinned", {}).get("capped"):
            cut[title] += 1
    text = f"No contender lost or doubled one of {ran:,} jobs."
    if bad:
        text = "\n".join(["**Lost or doubled jobs:**", "", *(f"- {each}" for each in bad)])
    if cut:
        runs = ", ".join(f"{title} ({count})" for title, count in cut.items())
        text += f"\n\nRuns that their limit ended, so that a job that had not run may be late or lost: {runs}."
    return text


def missing(results: Results) -> str:
    """What could not be measured, and why; the last try counts."""
    last = {line["key"]: line for line in results.runs}
    reasons: dict[str, list[str]] = {}
    for line in last.values():
        if "figures" not in line:
            reason = str(line.get("missing") or line.get("error")).strip().splitlines()[-1][:200]
            reasons.setdefault(f"{BY_NAME[line['contender']].title}: {reason}", []).append(line["scenario"])
    return "\n".join(f"- not measured: {reason} ({', '.join(sorted(set(of)))})" for reason, of in reasons.items())


def machine(results: Results) -> str:
    """Of each sitting: on what, which pgqueue, which command, and what ran in it."""
    parts: dict[str, list[str]] = {}
    for found, runs in zip(results.machines, results.runs_of, strict=True):
        if not runs:
            continue
        server = found["postgresql"]
        settings = ", ".join(f"{name} {value}" for name, value in server.items() if name != "server_version")
        whole = (
            f"{found['cpu']}, {found['cores']} cores, {found['memory_gb']} GB, {found['system']}. "
            f"Python {found['python']}, psycopg {found['psycopg']}. PostgreSQL {server['server_version']}: {settings}. "
            f"Redis: {found['redis'] or 'none'}."
        )
        who = ", ".join(f"{name} {count}" for name, count in Counter(run["contender"] for run in runs).items())
        parts.setdefault(whole, []).append(
            f"- pgqueue {found['pgqueue']}, `{found['command']}`, {found['syncs_per_second']:,} syncs a second, load "
            f"average before {found['load'][0]}: {len(runs)} runs ({who})"
        )
    return "\n\n".join("\n".join([whole, "", *sittings]) for whole, sittings in parts.items())


def versions(results: Results) -> str:
    rows = []
    for each in CONTENDERS:
        about = results.about(each.name)
        if "version" in about:
            options = ", ".join(f"{name} {value}" for name, value in about["options"].items())
            rows.append((each.title, about["version"], about["runtime"], f"{each.jobs:,}", options))
    return table(("contender", "version", "runtime", "jobs of a drain", "settings"), rows)


def _peer(results: Results, each: Contender) -> tuple[str, ...]:
    pickup, after = pooled(results, each.name), pooled(results, each.name, "after_samples")
    worker = Spread.of(plain_drains(results, each.name, "worker_us"))
    server = Spread.of(plain_drains(results, each.name, "server_us"))
    capped = any(plain_drains(results, each.name, "capped"))
    return (
        each.title,
        str(results.about(each.name).get("version", NOTHING)),
        _text(results.values("one", each.name, "rate")),
        _text(plain_drains(results, each.name, "bulk")),
        _text(plain_drains(results, each.name, "rate")) + (" capped" if capped else ""),
        "/".join(f"{pickup[knot]:.1f}" for knot in ("p50", "p95", "p99", "max")) if pickup else NOTHING,
        "/".join(f"{after[knot]:.1f}" for knot in ("p50", "p99")) if after else NOTHING,
        _pinned(results, each),
        f"{worker.median:,.0f}/{server.median:,.0f}" if worker and server else NOTHING,
    )


def _pinned(results: Results, each: Contender) -> str:
    found = max(results.of("pinned", each.name), key=lambda figures: figures["churned"], default=None)
    if found is None:
        return NOTHING
    capped = ", capped" if found["pinned"]["capped"] else ""
    return f"{found['pinned']['rate']:,.0f} ({found['ratio']:.2f}; {found['churned']:,}{capped})"


def _was_tried(results: Results, each: Contender) -> bool:
    return any(line["contender"] == each.name for line in results.runs)


def _text(values: list[float]) -> str:
    found = Spread.of(values)
    return NOTHING if found is None else str(found)
