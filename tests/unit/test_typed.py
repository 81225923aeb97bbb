"""Values with type hints go to JSON and come back as what they were."""
# ruff: noqa: UP006, UP007, UP045 (the old spellings of a hint are cases of their own)

from __future__ import annotations

import collections
import sys
import typing
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    Required,
    TypeAlias,
    TypedDict,
    TypeVar,
    Union,
)
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, SecretStr
from pydantic.dataclasses import dataclass as pydantic_dataclass

from pgqueue.arguments import Signature
from pgqueue.errors import ArgumentError, ConfigurationError

T = TypeVar("T")
K = TypeVar("K")
Number = TypeVar("Number", int, str)
Bounded = TypeVar("Bounded", bound=int)
UserId = NewType("UserId", int)
Ids: TypeAlias = list[UserId]


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 3


class Mixed(Enum):
    ONE = 1
    TRUE = True if sys.maxsize < 0 else "true"
    HALF = 0.5
    WHOLE = 2.0
    NONE = None


class Shape(Enum):
    SQUARE = (1, 1)
    WIDE = (2, 1)


class Access(Flag):
    READ = 1
    WRITE = 2


class Renamed(Enum):
    NEW = "new"

    @classmethod
    def _missing_(cls, value: object) -> Renamed | None:
        return cls.NEW if value == "old" else None


@dataclass
class Address:
    street: str
    since: date | None = None


@dataclass(frozen=True, slots=True)
class Customer:
    id: UUID
    addresses: list[Address] = field(default_factory=list)
    total: Decimal = Decimal("0.00")
    initial: str = field(init=False, default="x")


@dataclass(kw_only=True)
class Created:
    id: int
    kind: Literal["created"] = "created"


@dataclass
class Deleted:
    id: int
    kind: Literal["deleted"] = "deleted"


@dataclass
class SameAsAddress:
    street: str
    since: date | None = None


@dataclass
class Node:
    value: int
    children: list[Node] = field(default_factory=list)
    parent: Node | None = None


@dataclass
class Leaf:
    value: str


@dataclass
class Left:
    child: Left | Right | Leaf
    kind: Literal["left"] = "left"


@dataclass
class Right:
    child: Left | Right | Leaf
    kind: Literal["right"] = "right"


@dataclass
class Box(Generic[T]):
    item: T
    more: list[T] = field(default_factory=list)


@dataclass
class DateBox(Box[date], Generic[K]):
    key: K | None = None


@dataclass
class Positive:
    x: int

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("negative")


@dataclass
class MoreAddress(Address):
    city: str = ""


@dataclass
class WithInitVar:
    x: int
    seed: InitVar[int]


class Movie(TypedDict):
    title: str
    year: NotRequired[int]
    released: NotRequired[date]


class Partial(TypedDict, total=False):
    a: Required[int]
    b: UUID


class Extended(typing_extensions.TypedDict):
    a: int
    b: typing_extensions.NotRequired[date]
    c: typing_extensions.ReadOnly[date]


class Page(TypedDict, Generic[T]):
    items: list[T]


class Pair(NamedTuple):
    left: date
    right: int = 0


class Loose(collections.namedtuple("Loose", "a b")):
    pass


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")
    at: datetime
    tags: set[str] = set()
    renamed: int = Field(default=1, alias="theName")
    price: Decimal = Decimal(1)


class StrictModel(BaseModel):
    model_config = ConfigDict(strict=True)
    at: datetime
    id: UUID


class GenericModel(BaseModel, Generic[T]):
    item: T


class SubModel(Model):
    more: int = 0


@pydantic_dataclass
class PydanticPoint:
    x: int
    at: date


class Opaque:
    pass


Alias = typing_extensions.TypeAliasType("Alias", "dict[str, date]")
ListOf = typing_extensions.TypeAliasType("ListOf", list[T], type_params=(T,))


def signature_of(hint: Any) -> Signature:
    def task(a): ...  # type: ignore[no-untyped-def]

    task.__annotations__ = {"a": hint}
    return Signature(task)


def trip(hint: Any, value: Any) -> Any:
    signature = signature_of(hint)
    return signature.load(signature.dump((value,), {}))["a"]


def form(hint: Any, value: Any) -> str:
    return signature_of(hint).dump((value,), {})[5:-1]


def refused_dump(hint: Any, value: Any) -> str:
    with pytest.raises(ArgumentError) as caught:
        signature_of(hint).dump((value,), {})
    return str(caught.value)


def refused_load(hint: Any, text: str) -> str:
    with pytest.raises(ArgumentError) as caught:
        signature_of(hint).load(f'{{"a":{text}}}')
    return str(caught.value)


NOW = datetime(2026, 3, 4, 5, 6, 7, 890, UTC)
SOME_ID = UUID("12345678-1234-5678-1234-567812345678")

ROUND_TRIPS: list[tuple[Any, Any]] = [
    (str, "é\n"),
    (int, -(2**70)),
    (float, 1.5),
    (bool, True),
    (None, None),
    (Any, [1, {"a": None}]),
    (object, "x"),
    (datetime, NOW),
    (datetime, datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-3, minutes=-30, seconds=-7)))),
    (date, date(1, 1, 1)),
    (time, time(23, 59, 59, 999999)),
    (time, time(1, tzinfo=UTC)),
    (timedelta, timedelta(days=-1, microseconds=1)),
    (timedelta, timedelta.max),
    (timedelta, timedelta.min),
    (UUID, SOME_ID),
    (Decimal, Decimal("-0.10")),
    (Decimal, Decimal("1E+400")),
    (bytes, bytes(range(256))),
    (Colour, Colour.RED),
    (Level, Level.HIGH),
    (Mixed, Mixed.HALF),
    (Mixed, Mixed.WHOLE),
    (Mixed, Mixed.ONE),
    (Mixed, Mixed.NONE),
    (Shape, Shape.WIDE),
    (Access, Access.READ | Access.WRITE),
    (Literal["a", 1, True, None], "a"),
    (Literal["a", 1, True, None], 1),
    (Literal["a", 1, True, None], True),
    (Literal["a", 1, True, None], None),
    (Literal[Colour.RED, "x"], Colour.RED),
    (Literal[Shape.WIDE], Shape.WIDE),
    (int | str, 1),
    (int | str, "1"),
    (str | int, "1"),
    (str | int | None, None),
    (bool | int, True),
    (int | bool, True),
    (int | bool, 1),
    (int | float, 1),
    (float | int, 1),
    (float | int, 1.0),
    (float | bool, True),
    (Optional[datetime], None),
    (Optional[datetime], NOW),
    (datetime | str, NOW),
    (str | datetime, NOW),
    (str | datetime, "soon"),
    (date | datetime, NOW),
    (datetime | date, date(2026, 1, 1)),
    (date | datetime | time | timedelta | UUID | Decimal | str, timedelta(1)),
    (date | datetime | time | timedelta | UUID | Decimal | str, SOME_ID),
    (date | datetime | time | timedelta | UUID | Decimal | str, Decimal("1.5")),
    (date | datetime | time | timedelta | UUID | Decimal | str, time(1, 2)),
    (str | UUID, SOME_ID),
    (str | Colour, Colour.RED),
    (str | Colour, "green"),
    (Literal["a"] | int | str, "a"),
    (Level | int | str, Level.LOW),
    (list[Address] | Address, Address("x")),
    (list[Address] | Address, [Address("x", date(2026, 1, 1))]),
    (Created | Deleted, Deleted(1)),
    (Created | Deleted, Created(id=1)),
    (Union[Created, Deleted, None], None),
    (Address | Created | dict[str, int], {"street": 1}),
    (dict[str, int] | Address, Address("x")),
    (list[int] | list[str], ["a"]),
    (list[int] | list[str], []),
    (list[int] | set[int] | None, [1]),
    (Any | int, {"a": 1}),
    (Optional[Any], None),
    (list, [1, "a", None]),
    (list[int], [1, 2]),
    (list[datetime], [NOW]),
    (list[list[date]], [[date(2026, 1, 1)], []]),
    (typing.List[int], [1]),
    (tuple, (1, "a")),
    (typing.Tuple, (1, "a")),
    (tuple[date, ...], (date(2026, 1, 1),) * 3),
    (tuple[int, date], (1, date(2026, 1, 1))),
    (tuple[()], ()),
    (set, {1, 2}),
    (set[date], {date(2026, 1, 2), date(2026, 1, 1)}),
    (frozenset[int], frozenset({3, 1})),
    (AbstractSet[int], {1}),
    (Sequence[date], [date(2026, 1, 1)]),
    (Iterable[int], [1, 2]),
    (Collection[int], [1, 2]),
    (dict, {"a": 1}),
    (dict[str, date], {"a": date(2026, 1, 1)}),
    (dict[int, str], {1: "a", -2: "b"}),
    (dict[UUID, int], {SOME_ID: 1}),
    (dict[Colour, int], {Colour.RED: 1}),
    (dict[Level, int], {Level.HIGH: 1}),
    (dict[Shape, int], {Shape.WIDE: 1}),
    (dict[Literal["a", 2], int], {"a": 1, 2: 2}),
    (dict[datetime, int], {NOW: 1}),
    (dict[date, list[int]], {date(2026, 1, 1): [1]}),
    (dict[bool, int], {True: 1, False: 0}),
    (dict[float, int], {1.5: 1}),
    (dict[Decimal, int], {Decimal("1.50"): 1}),
    (dict[int | str, int], {1: 1, "a": 2}),
    (dict[str | None, int], {None: 1, "a": 2}),
    (Mapping[str, date], {"a": date(2026, 1, 1)}),
    (MutableMapping[str, int], {"a": 1}),
    (Address, Address("x")),
    (Customer, Customer(SOME_ID, [Address("x", date(2026, 1, 1))], Decimal("9.99"))),
    (Node, Node(1, [Node(2), Node(3, [Node(4)])], Node(0))),
    (Box[date], Box(date(2026, 1, 1), [date(2026, 1, 2)])),
    (Box[Box[int]], Box(Box(1))),
    (Box[list[UUID] | None], Box([SOME_ID])),
    (DateBox[UUID], DateBox(date(2026, 1, 1), [], SOME_ID)),
    (Box, Box("anything")),
    (list[T], [1]),  # type: ignore[valid-type]
    (Number, "x"),
    (Bounded, 1),
    (Movie, {"title": "x"}),
    (Movie, {"title": "x", "released": date(2026, 1, 1)}),
    (Partial, {"a": 1, "b": SOME_ID}),
    (Extended, {"a": 1, "c": date(2026, 1, 1)}),
    (Page[date], {"items": [date(2026, 1, 1)]}),
    (Pair, Pair(date(2026, 1, 1), 2)),
    (Loose, Loose(1, "b")),
    (UserId, 5),
    (Ids, [1]),
    (Annotated[date, "whatever"], date(2026, 1, 1)),
    (Annotated[int | None, []], None),
    (ListOf[date], [date(2026, 1, 1)]),
    (PositiveInt, 3),
    (Annotated[list[date], Field(min_length=1)], [date(2026, 1, 1)]),
    (Model, Model(at=NOW, tags={"a"}, theName=3)),
    (list[Model | None], [Model(at=NOW), None]),
    (StrictModel, StrictModel(at=NOW, id=SOME_ID)),
    (GenericModel[date], GenericModel[date](item=date(2026, 1, 1))),
    (PydanticPoint, PydanticPoint(1, date(2026, 1, 1))),
    (Box[Model], Box(Model(at=NOW))),
]


@pytest.mark.parametrize(
    ("hint", "value"), ROUND_TRIPS, ids=[f"{number}-{hint}"[:60] for number, (hint, _) in enumerate(ROUND_TRIPS)]
)
def test_a_value_comes_back_as_what_it_was(hint: Any, value: Any) -> None:
    back = trip(hint, value)
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        assert [type(one) for one in back] == [type(one) for one in value]


@pytest.mark.parametrize(
    ("hint", "value", "text"),
    [
        (datetime, NOW, '"2026-03-04T05:06:07.000890+00:00"'),
        (timedelta, timedelta(minutes=1, milliseconds=500), '"PT60.5S"'),
        (timedelta, timedelta(seconds=-90, microseconds=-1), '"PT-90.000001S"'),
        (timedelta, timedelta(0), '"PT0S"'),
        (Decimal, Decimal("1.50"), '"1.50"'),
        (bytes, b"\xff\x00", '"/wA="'),
        (Colour, Colour.RED, '"red"'),
        (Shape, Shape.WIDE, '"WIDE"'),
        (set[str], {"b", "a"}, '["a","b"]'),
        (set[int], {10, 9}, "[9,10]"),
        (set, {1, "a", None}, "['a',1,null]".replace("'", '"')),
        (dict[int, str], {1: "a"}, '{"1":"a"}'),
        (Pair, Pair(date(2026, 1, 1)), '{"left":"2026-01-01","right":0}'),
        (Customer, Customer(SOME_ID), f'{{"id":"{SOME_ID}","addresses":[],"total":"0.00"}}'),
        (float, 3, "3.0"),
        (str, Colour.RED, '"red"'),
        (int, Level.HIGH, "3"),
        (str, "é😀", '"é😀"'),
    ],
)
def test_the_json_is_what_a_person_would_write(hint: Any, value: Any, text: str) -> None:
    assert form(hint, value) == text


@pytest.mark.parametrize(
    ("hint", "value", "words"),
    [
        (int, "1", "must be int, not str '1'"),
        (int, True, "must be int, not bool True"),
        (int, 1.0, "must be int, not float 1.0"),
        (float, True, "must be float, not bool True"),
        (float, 10**400, "too large for a float"),
        (float, float("nan"), "is nan"),
        (list[float], [1.0, float("inf")], "a[1] is inf"),
        (bool, 1, "must be bool, not int 1"),
        (str, None, "must be str, not None"),
        (str, b"x", "must be str, not bytes"),
        (None, 0, "must be None"),
        (datetime, datetime(2026, 1, 1), "add tzinfo, e.g. datetime.now(UTC)"),
        (datetime | None, datetime(2026, 1, 1), "add tzinfo"),
        (datetime | str, datetime(2026, 1, 1), "add tzinfo"),
        (datetime, date(2026, 1, 1), "must be datetime"),
        (date, NOW, "must be date, not datetime"),
        (time, time(1, tzinfo=ZoneInfo("Europe/Paris")), "offset depends on the day"),
        (UUID, str(SOME_ID), "must be UUID, not str"),
        (Decimal, 1.5, "must be Decimal, not float"),
        (Decimal, Decimal("Infinity"), "not a number"),
        (bytes, "x", "must be bytes"),
        (Colour, "red", "must be a member of Colour, not str 'red'"),
        (Literal["a", 1], "b", "must be Literal['a', 1], not str 'b'"),
        (Literal[1], True, "must be Literal[1], not bool True"),
        (Literal["a"], [], "must be Literal['a'], not list []"),
        (int | str, 1.5, "must be int | str, not float 1.5"),
        (int | str, True, "must be int | str, not bool True"),
        (datetime | str, NOW.isoformat(), "would come back as datetime"),
        (UUID | str, str(SOME_ID), "would come back as UUID"),
        (Colour | str, "red", "would come back as"),
        (Address | SameAsAddress, SameAsAddress("x"), "Literal["),
        (list[int] | set[int], {1}, "would come back as list [1]"),
        (list[int], (1, 2), "must be list[int], not tuple (1, 2)"),
        (list[int], [1, "x"], "a[1] must be int"),
        (list[int], (one for one in [1]), "pass a list of its items"),
        (Sequence[str], "abc", "must be Sequence[str], not str 'abc'"),
        (Iterable[int], iter([1]), "pass a list of its items"),
        (tuple[int, str], (1,), "not one of 1 items"),
        (tuple[int, str], (1, 2), "a[1] must be str"),
        (set[int], [1], "must be set[int]"),
        (frozenset[int], {1}, "must be frozenset[int]"),
        (dict[str, int], {"a": "b"}, "a['a'] must be int"),
        (dict[str, int], {1: 1}, "a[1] must be str"),
        (dict, {1: 1}, "text keys only"),
        (dict[int, int], {"1": 1}, "a['1'] must be int"),
        (dict[int | str, int], {"1": 1}, "would come back as int 1"),
        (dict[float, int], {float("nan"): 1}, "which JSON cannot write"),
        (dict[str, int], [], "must be dict[str, int]"),
        (Address, {"street": "x"}, "must be Address, not dict"),
        (Address, Address(1), "a.street must be str"),  # type: ignore[arg-type]
        (Address, MoreAddress("x"), "annotate it as MoreAddress"),
        (Customer, Customer(SOME_ID, [Address("x", NOW)]), "a.addresses[0].since must be date, not datetime"),
        (Movie, {}, "lacks 'title' of Movie"),
        (Movie, {"title": "x", "yaer": 1}, "does not know: str 'yaer'"),
        (Movie, {"title": "x", "year": "1"}, "a['year'] must be int"),
        (Pair, (date(2026, 1, 1), 1), "must be Pair"),
        (UserId, "5", "must be int"),
        (PositiveInt, -1, "greater than 0"),
        (PositiveInt, "1", "must be int"),
        (Model, {"at": NOW}, "must be Model"),
        (Model, SubModel(at=NOW), "annotate it as SubModel"),
        (Model, Model.model_construct(at="x"), "cannot be written as JSON"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_at_its_place(hint: Any, value: Any, words: str) -> None:
    message = refused_dump(hint, value)
    assert words in message
    assert message.startswith("argument 'a' of task ")
    assert ": " in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("hint", "text", "words"),
    [
        (int, '"1"', "must be int"),
        (int, "1.0", "must be int"),
        (bool, "1", "must be bool"),
        (float, '"1"', "must be float"),
        (float, "1" * 400, "too large for a float"),
        (datetime, '"2026-01-01"', "a time without its zone"),
        (datetime, '"x"', "must be a datetime as text, not str 'x'"),
        (datetime, "1", "must be a datetime as text, not int 1"),
        (date, '"2026-02-30"', "must be a date as text"),
        (timedelta, '"5 minutes"', "must be a timedelta as text"),
        (timedelta, '"P"', "must be a timedelta"),
        (timedelta, '"PT"', "must be a timedelta"),
        (timedelta, '"PT99999999999999999S"', "must be a timedelta"),
        (UUID, '"12345678"', "must be a UUID"),
        (UUID, f'"{{{SOME_ID}}}"', "must be a UUID"),
        (Decimal, '"NaN"', "must be a Decimal"),
        (Decimal, "1.5", "must be a Decimal as text, not float 1.5"),
        (Decimal, "true", "must be a Decimal"),
        (bytes, '"!"', "must be a bytes as text"),
        (Colour, '"green"', "must be a member of Colour ('red', 'blue'), not str 'green'"),
        (Level, "true", "must be a member of Level"),
        (Mixed, "true", "must be a member of Mixed"),
        (Access, "9", "must be a member of Access"),
        (Shape, '"wide"', "must be a member of Shape"),
        (Literal[1], "true", "must be Literal[1]"),
        (Literal["a"], "[]", "must be Literal['a']"),
        (int | str, "true", "must be int | str"),
        (int | date, '"x"', "must be a date as text"),
        (datetime | date, '"x"', "must be datetime | date, not str 'x'"),
        (list[int], "{}", "must be list[int]"),
        (list[int], '[1,"x"]', "a[1] must be int"),
        (set[Any], "[[]]", "cannot be read as set"),
        (tuple[int, int], "[1]", "not one of 1 items"),
        (dict[int, int], '{"x":1}', "a['x'] must be int"),
        (dict[int, int], "[]", "must be dict"),
        (Address, "{}", "lacks 'street' of Address"),
        (Address, '{"street":"x","town":1}', "does not know: str 'town'"),
        (Address, "[]", "must be an object that is a Address"),
        (Positive, '{"x":-1}', "cannot be made a Positive again (ValueError: negative)"),
        (Customer, f'{{"id":"{SOME_ID}","initial":"y"}}', "does not know"),
        (Movie, '{"title":1}', "a['title'] must be str"),
        (PositiveInt, "0", "greater than 0"),
        (Model, '{"at":"x"}', "is no valid Model (at: Input should be a valid datetime"),
        (Model, '{"at":"2026-01-01T00:00:00Z","zz":1}', "zz: Extra inputs are not permitted"),
        (Model, "1", "is no valid Model"),
    ],
)
def test_json_that_does_not_fit_is_refused_at_its_place(hint: Any, text: str, words: str) -> None:
    message = refused_load(hint, text)
    assert words in message
    assert message.startswith("argument 'a' of task ")
    assert "correct the stored arguments" in message or "add an offset" in message


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (datetime, '"2026-01-01T00:00:00Z"', datetime(2026, 1, 1, tzinfo=UTC)),
        (datetime, '"2026-01-01 00:00:00+01"', datetime(2025, 12, 31, 23, tzinfo=UTC)),
        (float, "3", 3.0),
        (float, "10000000000000000", 1e16),
        (Decimal, "12", Decimal(12)),
        (timedelta, '"P1DT2H3M4.5S"', timedelta(1, 4.5, hours=2, minutes=3)),
        (timedelta, '"PT-0.5S"', timedelta(seconds=-0.5)),
        (timedelta, '"P2D"', timedelta(2)),
        (Mixed, "2", Mixed.WHOLE),
        (Renamed, '"old"', Renamed.NEW),
        (Address, '{"street":"x"}', Address("x")),
        (Pair, '{"left":"2026-01-01"}', Pair(date(2026, 1, 1), 0)),
        (Model, '{"at":"2026-01-01T00:00:00Z","theName":5}', Model(at=datetime(2026, 1, 1, tzinfo=UTC), theName=5)),
    ],
)
def test_what_sql_and_other_languages_write_is_read(hint: Any, text: str, value: Any) -> None:
    assert signature_of(hint).load(f'{{"a":{text}}}') == {"a": value}


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Opaque, "Opaque cannot be read back from JSON; make it a dataclass"),
        (list[Opaque], "Opaque"),
        (Box[Opaque], "Opaque"),
        (Path, "Path cannot be read back"),
        (collections.OrderedDict, "OrderedDict"),
        (dict[tuple[int, int], int], "use a list of pairs"),
        (dict[Address, int], "use a list of pairs"),
        (Literal[b"x"], "has no JSON form"),
        (WithInitVar, "InitVar 'seed'"),
        (typing.Callable[[], None], "cannot be read back"),
        (SecretStr, "is secret"),
        (complex, "complex"),
        (Alias, "dict[str, date] cannot be read back"),
    ],
)
def test_a_hint_that_json_cannot_carry_is_a_declaration_error(hint: Any, words: str) -> None:
    signature = signature_of(hint)
    for use in (lambda: signature.dump((1,), {}), lambda: signature.load('{"a":1}')):
        with pytest.raises(ConfigurationError) as caught:
            use()
        assert "parameter 'a' of task " in str(caught.value)
        assert words in str(caught.value)


def test_a_dataclass_whose_fields_cannot_be_resolved_names_the_fix() -> None:
    @dataclass
    class Inner:
        x: Nowhere  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigurationError, match=r"fields of .*Inner cannot be resolved.*Nowhere.*TYPE_CHECKING"):
        signature_of(Inner).resolve()


def test_zones_come_back_as_their_offset_at_the_same_moment() -> None:
    value = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris"))
    back = trip(datetime, value)
    assert back.astimezone(UTC) == value.astimezone(UTC)
    assert back.utcoffset() == timedelta(hours=1)


def test_a_sequence_comes_back_as_a_list_and_a_mapping_as_a_dict() -> None:
    assert trip(Sequence[int], (1, 2)) == [1, 2]
    assert trip(Iterable[int], {2, 1}) == [1, 2]
    assert type(trip(Mapping[str, int], collections.OrderedDict(a=1))) is dict


def test_a_value_that_contains_itself_is_refused() -> None:
    node = Node(1)
    node.children.append(node)
    message = refused_dump(Node, node)
    assert "contains itself" in message
    assert "argument 'a'" in message


def test_typed_values_that_nest_too_deep_are_refused_both_ways() -> None:
    node = Node(1)
    for _ in range(100):
        node = Node(1, [], node)
    assert "nests deeper than 64" in refused_dump(Node, node)
    text = '{"value":1,"parent":' * 100 + "null" + "}" * 100
    with pytest.raises(ArgumentError, match="nests deeper"):
        signature_of(Node).load(f'{{"a":{text}}}')


def test_a_deep_union_of_like_records_takes_no_exponential_time() -> None:
    value: Any = Leaf("end")
    for index in range(60):
        value = Left(value) if index % 2 else Right(value)
    assert trip(Left | Right | Leaf, value) == value


def test_a_model_is_written_by_field_name() -> None:
    assert '"renamed":3' in form(Model, Model(at=NOW, theName=3))


def test_models_work_without_annotation_too_and_come_back_plain() -> None:
    back = trip(Any, [Model(at=NOW), PydanticPoint(1, date(2026, 1, 1))])
    assert back[0]["at"] == "2026-03-04T05:06:07.000890Z"
    assert back[1] == {"x": 1, "at": "2026-01-01"}


def test_msgspec_structs_are_read_by_msgspec() -> None:
    msgspec = pytest.importorskip("msgspec")
    Event: Any = msgspec.defstruct("Event", [("at", datetime), ("tags", set[str], msgspec.field(default_factory=set))])
    Other = msgspec.defstruct("Other", [("n", int, 0)], bases=(Event,))
    value = Event(at=NOW, tags={"a"})
    assert trip(Event, value) == value
    assert trip(list[Event | None], [value, None]) == [value, None]
    assert trip(Any, value)["tags"] == ["a"]
    assert "is no valid Event" in refused_load(Event, '{"at":1.5,"tags":3}')
    assert "annotate it as Other" in refused_dump(Event, Other(NOW, n=1))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="`type` statements came with Python 3.12")
def test_type_statements_may_contain_themselves() -> None:
    names: dict[str, Any] = {}
    exec("type Json = dict[str, Json] | list[Json] | str | int | None\ntype Many[T] = list[T]", names)
    value = {"a": [1, {"b": [None, "x"]}]}
    assert trip(names["Json"], value) == value
    assert trip(names["Many"][date], [date(2026, 1, 1)]) == [date(2026, 1, 1)]


def _anything(value: Any) -> Any:
    return value


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
floats = st.floats(allow_nan=False, allow_infinity=False)
offsets = st.builds(lambda minutes: timezone(timedelta(minutes=minutes)), st.integers(-1439, 1439))
# To mypy these are values, so that hints can be built from variables.
list_of, tuple_of, dict_of, optional, box_of, union_of = map(_anything, (list, tuple, dict, Optional, Box, Union))
leaves: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, texts),
    (int, st.integers()),
    (float, floats),
    (bool, st.booleans()),
    (datetime, st.datetimes(timezones=offsets)),
    (date, st.dates()),
    (time, st.times()),
    (timedelta, st.timedeltas()),
    (UUID, st.uuids()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (bytes, st.binary(max_size=50)),
    (Colour, st.sampled_from(Colour)),
    (Shape, st.sampled_from(Shape)),
    (Address, st.builds(Address, texts, st.none() | st.dates())),
    (Customer, st.builds(Customer, st.uuids(), st.lists(st.builds(Address, texts)))),
]


Case = tuple[Any, st.SearchStrategy[Any]]


@st.composite
def hinted(draw: st.DrawFn, levels: int) -> Case:
    """A type hint and a strategy for its values."""
    if levels == 0 or draw(st.booleans()):
        leaf: Case = draw(st.sampled_from(leaves))
        return leaf
    hint, values = draw(hinted(levels - 1))
    other, more = draw(hinted(levels - 1))
    key, keys = draw(st.sampled_from(leaves[:13]))
    cases: list[Case] = [
        (list_of[hint], st.lists(values, max_size=3)),
        (tuple_of[hint, ...], st.lists(values, max_size=3).map(tuple)),
        (tuple_of[hint, other], st.tuples(values, more)),
        (dict_of[key, hint], st.dictionaries(keys, values, max_size=3)),
        (optional[hint], st.none() | values),
        (box_of[hint], st.builds(Box, values, st.lists(values, max_size=2))),
    ]
    case: Case = draw(st.sampled_from(cases))
    return case


@st.composite
def typed_values(draw: st.DrawFn) -> tuple[Any, Any]:
    """A type hint and a value of it."""
    hint, values = draw(hinted(2))
    return hint, draw(values)


def alike(left: Any, right: Any) -> bool:
    """Equal and of the same types all the way down; Decimals digit by digit."""
    if type(left) is not type(right):
        return False
    if isinstance(left, Decimal):
        return str(left) == str(right)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(alike, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(alike(left[one], right[one]) for one in left)
    if hasattr(left, "__dataclass_fields__"):
        return all(alike(getattr(left, one), getattr(right, one)) for one in left.__dataclass_fields__)
    return bool(left == right)


@given(typed_values())
def test_any_typed_value_comes_back_alike(case: tuple[Any, Any]) -> None:
    hint, value = case
    assert alike(trip(hint, value), value)


@given(st.lists(st.sampled_from(leaves), min_size=2, max_size=5), st.data())
def test_a_union_brings_a_value_back_alike_or_refuses_it(members: list[Any], data: st.DataObject) -> None:
    hint = union_of[tuple(one for one, _ in members)]
    value = data.draw(st.one_of([values for _, values in members]))
    try:
        back = trip(hint, value)
    except ArgumentError as error:
        message = str(error)
    else:
        assert alike(back, value)
        return
    assert "would come back as" in message
