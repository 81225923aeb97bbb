"""`pgqueue demo`: a small shop on a PostgreSQL of its own."""

from __future__ import annotations

import sys

import click


@click.command("demo")
@click.option("--orders", type=click.IntRange(min=10), default=200, show_default=True, help="Orders to place.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed places the same orders.")
def command(orders: int, seed: int) -> None:
    """Run a small shop: no server and no configuration needed. Exit code 0 only if its ledger balances."""
    from pgqueue.demo import run_demo

    sys.exit(run_demo(orders, seed))
