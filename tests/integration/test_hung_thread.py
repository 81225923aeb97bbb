"""A thread that hangs keeps neither its worker nor its process from ending."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

PROGRAM = """
    import asyncio, threading
    from pgqueue import PgQueue

    app = PgQueue()
    running = threading.Event()

    @app.task(timeout=0.1, max_attempts=1)
    def hang() -> None:
        running.set()
        threading.Event().wait()

    async def main() -> None:
        job = await hang.aenqueue()
        async with app.worker():
            await asyncio.to_thread(running.wait)
            while (await job.arefresh()).state != "failed":
                await asyncio.sleep(0.01)
        print("the worker stopped")
        await app.aclose()

    if __name__ == "__main__":
        asyncio.run(main())
"""


def test_the_process_ends_although_a_thread_hangs(dsn: str, tmp_path: Path) -> None:
    script = tmp_path / "hanging.py"
    script.write_text(textwrap.dedent(PROGRAM))
    ended = subprocess.run(
        [sys.executable, script], env=os.environ | {"PGQUEUE_DSN": dsn}, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (0, "the worker stopped\n"), ended.stderr
    assert "cannot be stopped: 9 of 10 slots of queue default are left" in ended.stderr
