"""A media pipeline as a flow: look at an upload, make its sizes side by side, publish them together.

    pgqueue dev examples.media_pipeline:app          # PostgreSQL, tables and a worker
    python -m examples.media_pipeline upload.jpg     # in another terminal, with the same PGQUEUE_DSN
    pgqueue flows list; pgqueue flows show 1 --watch 1

The sizes are made in processes of their own, since they cost CPU. One that fails for good does not keep the others from
being published; an upload that cannot be read does. Redrive a failed size, and it is published by itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageOps

from pgqueue import Context, FailJob, Flow, PgQueue

SIZES = (64, 320, 1280)

app = PgQueue()


@app.task(queue="media")
def probe(path: str) -> dict[str, int]:
    """Look at the upload before anything is made of it."""
    try:
        with Image.open(path) as image:
            image.verify()
            return {"width": image.width, "height": image.height}
    except OSError as error:
        raise FailJob(f"{path} is no image") from error


@app.task(queue="media", run_in="process", max_attempts=3)
def resize(path: str, size: int) -> str:
    """Make one size; again if the process dies of it. The same file each time, so that a second run does no harm."""
    made = Path(path).with_suffix(f".{size}.jpg")
    unfinished = made.with_suffix(".part")
    with Image.open(path) as image:
        ImageOps.contain(image.convert("RGB"), (size, size)).save(unfinished, "JPEG")
    unfinished.replace(made)
    return str(made)


@app.task(queue="media", bind=True)
def publish(ctx: Context, path: str) -> list[str]:
    """Write the list of what there is; sizes that failed are left out."""
    made = [child.result for child in ctx.children() if child.task == resize.name and child.state == "completed"]
    if not made:
        raise FailJob(f"no size of {path} could be made")
    Path(path).with_suffix(".published").write_text("\n".join(made), encoding="utf-8")
    return made


def pipeline(path: str) -> Flow:
    """The flow of one upload: probe, then every size, then publish."""
    flow = Flow(f"upload {Path(path).name}")
    probed = flow.add(probe.job(path), name="probe")
    sizes = [flow.add(resize.job(path, size), after=probed, name=f"{size} px") for size in SIZES]
    flow.add(publish.job(path), after=sizes, on_failure="ignore", name="publish")
    return flow


def main(path: str) -> None:
    made = app.flows.enqueue(pipeline(str(Path(path).resolve())))
    print(f"flow {made.id}; waiting for it …")
    print("\n".join(made["publish"].result(timeout=60)))


if __name__ == "__main__":
    main(sys.argv[1])
