"""What `docker compose up` runs until PGQUEUE_APP and APP_FOLDER name your own app: some work of each kind."""

from __future__ import annotations

import asyncio
import random

from pgqueue import Backoff, PgQueue

app = PgQueue(timeout=60)


@app.cron("* * * * *")
@app.task()
def arrive() -> None:
    """Each minute, thirty customers, two seconds apart."""
    app.enqueue_many([greet.job(customer) for customer in range(30)], spread=2.0)


@app.task(max_attempts=4, backoff=Backoff.exponential(2, cap=20))
async def greet(customer: int) -> str:
    await asyncio.sleep(random.uniform(0.05, 0.5))
    if random.random() < 0.1:
        raise ConnectionError("the greeting did not get through")
    await count.aenqueue(100_000 * (1 + customer % 5))
    return f"hello {customer}"


@app.task(queue="cpu", run_in="process")
def count(to: int) -> int:
    return sum(range(to))
