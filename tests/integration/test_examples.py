"""What stands in examples/ runs as it stands."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from PIL import Image

from pgqueue.testing import adrain

ROOT = Path(__file__).parents[2]


@pytest.fixture
def examples(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports an example, whose app is then on the test's database."""
    monkeypatch.syspath_prepend(ROOT)
    opened: list[Any] = []

    def named(name: str) -> Any:
        from importlib import import_module

        module = import_module(f"examples.{name}")
        module.app.database.point_at(dsn)
        opened.append(module.app)
        return module

    yield named
    for app in opened:
        app.close()


def jpegs(folder: Path) -> list[Path]:
    return [*folder.glob("*.jpg")]


async def test_an_upload_is_probed_resized_and_published(examples: Any, tmp_path: Path) -> None:
    media = examples("media_pipeline")
    upload = tmp_path / "upload.png"
    Image.new("RGB", (2000, 1000), "teal").save(upload)
    made = media.app.flows.enqueue(media.pipeline(str(upload)))
    await adrain(media.app)
    files = made["publish"].refresh().value
    assert [Image.open(file).size for file in files] == [(64, 32), (320, 160), (1280, 640)]
    assert (tmp_path / "upload.published").read_text() == "\n".join(files)
    await media.app.aclose()


async def test_an_upload_that_is_no_image_is_not_resized(examples: Any, tmp_path: Path) -> None:
    media = examples("media_pipeline")
    upload = tmp_path / "upload.png"
    upload.write_text("hello")
    made = media.app.flows.enqueue(media.pipeline(str(upload)))
    await adrain(media.app)
    states = [media.app.jobs.get(job.id).state for job in made.jobs]
    assert states == ["failed"] * 5
    assert "no size of" in media.app.failed.get(made["publish"].id).errors[-1]["message"]
    assert jpegs(tmp_path) == []
    await media.app.aclose()


async def test_a_tenants_report_is_at_nine_where_the_tenant_is_and_for_the_month_before(examples: Any) -> None:
    reports = examples("tenant_reports")
    for tz in ("America/New_York", "Asia/Kolkata"):
        due = reports.sign_up("acme", tz).astimezone(ZoneInfo(tz))
        assert (due.day, due.hour, due.minute) == (1, 9, 0)
        assert due > datetime.now(UTC)
    job = reports.app.schedules.run("monthly-acme")
    await adrain(reports.app)
    assert len(job.refresh().value) == len("2026-11")
    reports.leave("acme")
    assert reports.app.schedules.list() == []
    await reports.app.aclose()


def test_the_examples_say_how_they_are_run() -> None:
    for path in (ROOT / "examples").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not text or f"python -m examples.{path.stem}" in text
