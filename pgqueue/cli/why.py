"""`pgqueue why`: what keeps a job where it is."""

from __future__ import annotations

import click

from pgqueue.cli.options import operates
from pgqueue.cli.output import DIM, print_json, printable, stdout
from pgqueue.cli.target import Target


@click.command("why")
@click.argument("job_id", type=int, metavar="JOB")
@operates
def command(target: Target, job_id: int) -> None:
    """Say why a job is not running, or what became of it, and what to do. Exit code 3: there is no such job."""
    from rich.text import Text

    why = target.database_app().jobs.why(job_id)
    if target.as_json:
        reasons = [{"code": one.code, "text": one.text, "fix": one.fix} for one in why.reasons]
        print_json([{"id": why.job.id, "state": why.job.state, "reasons": reasons}])
        return
    console = stdout()
    console.print(Text(f"job {why.job.id}  {why.job.task}  in queue {why.job.queue}  is {why.job.state}", style=DIM))
    for reason in why.reasons:
        console.print(Text(f"- {printable(reason.text)}"))
        if reason.fix:
            console.print(Text(f"  {printable(reason.fix)}", style=DIM))
