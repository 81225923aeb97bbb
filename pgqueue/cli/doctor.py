"""`pgqueue doctor`: what is well and what is not."""

from __future__ import annotations

import click

from pgqueue.cli.errors import Unhealthy
from pgqueue.cli.options import operates
from pgqueue.cli.output import DIM, note, print_json, printable, stdout
from pgqueue.cli.target import Target

STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command("doctor")
@click.option("--fix", is_flag=True, help="Do what can be done without harm: make missing partitions.")
@operates
def command(target: Target, fix: bool) -> None:
    """Check the server, the tables and the fleet. Exit code 6: something hurts now."""
    from rich.text import Text

    app = target.database_app()
    if fix:
        for done in app.doctor.mend() or ["There was nothing to mend."]:
            note(done)
    found = app.doctor.look()
    if target.as_json:
        print_json([{"check": f.check, "level": f.level, "text": f.text, "fix": f.fix} for f in found])
    else:
        console = stdout()
        width = max(len(finding.check) for finding in found)
        for finding in found:
            line = Text(f"{finding.level:<8}", style=STYLES[finding.level])
            console.print(line + Text(f" {finding.check:<{width}}  ", style=DIM) + Text(printable(finding.text)))
            if finding.fix:
                console.print(Text(f"{'':<{width + 9}}  {printable(finding.fix)}", style=DIM))
    problems = sum(finding.level == "problem" for finding in found)
    if problems:
        raise Unhealthy(f"{problems} of {len(found)} findings hurt now")
