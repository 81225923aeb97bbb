"""How chunk tasks are declared, and what the arguments of their jobs are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NotRequired, TypedDict
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel, Field

from pgqueue import ArgumentError, ChunkJob, ConfigurationError, Limit, PgQueue, Task, Unique
from pgqueue.task.chunking import ChunkSignature

if TYPE_CHECKING:
    from decimal import Decimal as Hidden

DAY = date(2030, 1, 2)
AN_ID = UUID(int=7)


@dataclass
class Document:
    id: int
    day: date = DAY
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.id < 0:
            raise ValueError("the id is negative")


class Typed(TypedDict):
    id: int
    day: NotRequired[date]


class Named(NamedTuple):
    id: int
    day: date = DAY


class Model(BaseModel):
    id: Annotated[int, Field(gt=0)]
    day: date = DAY
    tags: list[str] = Field(default_factory=list)


class Struct(msgspec.Struct):
    id: int
    day: date = DAY


@dataclass
class Unresolvable:
    price: Hidden


def of_documents(jobs: list[ChunkJob[Document]]) -> None: ...
def of_typed(jobs: Sequence[ChunkJob[Typed]]) -> None: ...
def of_named(jobs: Iterable[ChunkJob[Named]]) -> None: ...
def of_models(jobs: list[ChunkJob[Model]]) -> None: ...
def of_structs(jobs: list[ChunkJob[Struct]]) -> None: ...
def of_dicts(jobs: list[ChunkJob[dict[str, int]]]) -> None: ...
def of_anything(jobs) -> None: ...  # type: ignore[no-untyped-def]
async def of_bare(jobs: list[ChunkJob]) -> None: ...  # type: ignore[type-arg]


def signature(function: Any) -> ChunkSignature:
    return ChunkSignature(function, name="index")


@pytest.mark.parametrize(
    ("function", "record"),
    [
        (of_documents, Document(7, DAY)),
        (of_typed, {"id": 7, "day": DAY}),
        (of_named, Named(7, DAY)),
        (of_models, Model(id=7, day=DAY)),
        (of_structs, Struct(7, DAY)),
    ],
)
def test_the_arguments_of_a_job_are_the_fields_of_a_record(function: Any, record: Any) -> None:
    takes = signature(function)
    text = takes.dump((), {"id": 7, "day": DAY})
    assert json.loads(text) == {"id": 7, "day": "2030-01-02"}
    assert takes.record(takes.load(text)) == record
    assert set(takes.names or ()) >= {"id", "day"}


@pytest.mark.parametrize("function", [of_documents, of_typed, of_named, of_models, of_structs])
def test_what_is_not_given_is_not_stored_and_what_cannot_be_is_refused(function: Any) -> None:
    takes = signature(function)
    assert json.loads(takes.dump((), {"id": 7})) == {"id": 7}
    with pytest.raises(ArgumentError, match="argument 'id' of task index"):
        takes.dump((), {"id": "7"})
    with pytest.raises(ArgumentError, match="argument 'id' is missing"):
        takes.dump((), {})
    with pytest.raises(ArgumentError, match=r"there is no argument 'dya', .*did you mean 'day'"):
        takes.dump((), {"id": 7, "dya": DAY})
    with pytest.raises(ArgumentError, match="argument 'day' of task index"):
        takes.load('{"id": 7, "day": "tomorrow"}')


def test_arguments_may_be_given_by_position_where_the_record_takes_them_so() -> None:
    assert json.loads(signature(of_documents).dump((7, DAY), {})) == {"id": 7, "day": "2030-01-02"}
    assert json.loads(signature(of_named).dump((7,), {})) == {"id": 7}
    with pytest.raises(ArgumentError, match="has 1 positional arguments and the task takes 0"):
        signature(of_models).dump((7,), {})


@pytest.mark.parametrize(("function", "record"), [(of_documents, "Document"), (of_models, "Model")])
def test_the_records_own_checks_hold_at_the_enqueue_and_at_the_run(function: Any, record: str) -> None:
    takes = signature(function)
    with pytest.raises(ArgumentError, match=rf"(make no {record}|argument 'id' of task index).*(negative|greater)"):
        takes.dump((), {"id": -1})
    with pytest.raises(ArgumentError, match=rf"(make no {record}|argument 'id' of task index).*(negative|greater)"):
        takes.record(takes.load('{"id": -1}'))


@pytest.mark.parametrize("function", [of_anything, of_bare])
def test_without_a_record_any_arguments_are_taken_and_come_back_as_a_dict(function: Any) -> None:
    takes = signature(function)
    text = takes.dump((), {"id": AN_ID, "more": [1]})
    assert takes.record(takes.load(text)) == {"id": str(AN_ID), "more": [1]}
    assert takes.names is None


def test_a_dict_checks_its_values() -> None:
    takes = signature(of_dicts)
    assert takes.record(takes.load(takes.dump((), {"a": 1}))) == {"a": 1}
    with pytest.raises(ArgumentError, match="argument 'a' of task index"):
        takes.dump((), {"a": "1"})


def nothing() -> None: ...
def two(jobs: list[ChunkJob[Document]], more: int = 1) -> None: ...
def by_name(*, jobs: list[ChunkJob[Document]]) -> None: ...
def variadic(*jobs: ChunkJob[Document]) -> None: ...
def no_list(job: ChunkJob[Document]) -> None: ...
def no_jobs(jobs: list[Document]) -> None: ...
def bare_list(jobs: list) -> None: ...  # type: ignore[type-arg]
def of_ints(jobs: list[ChunkJob[int]]) -> None: ...
def of_int_keys(jobs: list[ChunkJob[dict[int, str]]]) -> None: ...
def hidden(jobs: list[ChunkJob[Hidden]]) -> None: ...
def unresolvable(jobs: list[ChunkJob[Unresolvable]]) -> None: ...


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (nothing, "takes one parameter, the list of its jobs"),
        (two, "takes one parameter, the list of its jobs"),
        (by_name, "takes one parameter, the list of its jobs"),
        (variadic, "takes one parameter, the list of its jobs"),
        (no_list, r"the parameter 'job' cannot be .*ChunkJob.*: write jobs: list\[ChunkJob\[Document\]\]"),
        (no_jobs, r"the parameter 'jobs' cannot be list\[.*Document\]: write jobs: list\[ChunkJob\[Document\]\]"),
        (bare_list, "the parameter 'jobs' cannot be list: write jobs"),
        (of_ints, r"the arguments of a job have names, so ChunkJob\[int\] cannot be: make it a dataclass"),
        (of_int_keys, "has no str keys"),
        (hidden, r"cannot be resolved .*define its names above the task, outside `if TYPE_CHECKING`"),
        (unresolvable, "the fields of Unresolvable cannot be resolved"),
    ],
)
def test_a_function_that_cannot_take_chunks_is_refused(function: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        PgQueue().task(chunk=10)(function)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"chunk": 0}, "chunk=0 must be a whole number from 1 to 10,000"),
        ({"chunk": 10_001}, "chunk=10001 must be"),
        ({"chunk": True}, "chunk=True must be"),
        ({"chunk": 10.0}, "chunk=10.0 must be"),
        ({"chunk": 10, "wait": -1}, "wait must be between 0"),
        ({"chunk": 10, "wait": "1"}, "wait must be a number of seconds"),
        ({"chunk": 10, "wait": timedelta(hours=2)}, "must be at most an hour"),
        ({"wait": 1.0}, "wait=1.0 needs chunk"),
        ({"chunk": 10, "bind": True}, "there is no one Context"),
        ({"chunk": 10, "unique": Unique("{name}")}, "names name, which is no parameter"),
        ({"chunk": 10, "serial_key": "{jobs}"}, "names jobs, which is no parameter"),
        ({"chunk": 10, "limit": Limit(concurrency=1, key="{name}")}, "names name, which is no parameter"),
        ({"chunk": 10, "transactional": True, "run_in": "process"}, "cannot run in a process"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], why: str) -> None:
    task: Any = PgQueue().task
    with pytest.raises(ConfigurationError, match=why):
        task(**options)(of_documents)


def test_a_job_has_the_keys_that_its_arguments_fill() -> None:
    app = PgQueue()
    task: Task[..., Any] = app.task(chunk=10, unique=Unique("doc:{id}:{day}"), serial_key="{id}")(of_documents)
    job = task.job(7)
    assert (job.key, job.serial_key, json.loads(job.args)) == ("doc:7:2030-01-02", "7", {"id": 7})
    with pytest.raises(ArgumentError, match="names tags, which is no argument"):
        task.using(key=Unique("{tags}")).job(7)


def test_without_a_wait_it_is_a_second() -> None:
    app = PgQueue()
    first = app.task(chunk=10, name="first")(of_documents)
    second = app.task(chunk=10, wait=timedelta(seconds=5), name="second")(of_documents)
    assert first.chunk is not None
    assert second.chunk is not None
    assert (first.chunk.size, first.chunk.wait, second.chunk.wait) == (10, 1.0, 5.0)


def test_a_plain_task_has_no_chunk() -> None:
    def plain(jobs: list[int]) -> None: ...

    task = PgQueue().task(name="plain")(plain)
    assert task.chunk is None
    assert json.loads(task.job([1]).args) == {"jobs": [1]}
