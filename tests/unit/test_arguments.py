"""Binding a call to a signature, what is refused and in which words, and JSON without type hints."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pgqueue.arguments import ARGUMENTS_LIMIT, Signature, dumps, loads
from pgqueue.errors import ArgumentError, ConfigurationError

if TYPE_CHECKING:
    from somewhere import Unseen  # type: ignore[import-not-found]


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Shade(Enum):
    PAIR = (1, 2)
    DARK = "dark"


@dataclass
class Point:
    x: int
    at: datetime | None = None


class Pair(NamedTuple):
    left: int
    right: int


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    number: Mapped[int] = mapped_column("order_number", primary_key=True)


class Line(Base):
    __tablename__ = "lines"
    order: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)


def send(to: str, subject: str = "hi", *, copies: int = 1) -> None: ...
def untyped(data, other=None): ...  # type: ignore[no-untyped-def]
def anything(**extra): ...  # type: ignore[no-untyped-def]
def numbers(first: int, **others: int) -> None: ...
def nothing() -> None: ...


def later(point: Later) -> None: ...


@dataclass
class Later:
    x: int


def unseen(a: int, b: Unseen) -> None: ...
def bound(ctx: Unseen, order_id: int) -> None: ...


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ArgumentError) as caught:
        call()
    return str(caught.value)


def plain(value: object) -> Any:
    return json.loads(dumps(value, what="it", limit=ARGUMENTS_LIMIT))


class TestBinding:
    @pytest.mark.parametrize(
        ("args", "kwargs", "text"),
        [
            (("a@b.c",), {}, '{"to":"a@b.c"}'),
            (("a@b.c", "yo"), {"copies": 2}, '{"to":"a@b.c","subject":"yo","copies":2}'),
            ((), {"to": "a@b.c"}, '{"to":"a@b.c"}'),
            (("a@b.c",), {"subject": "hi"}, '{"to":"a@b.c","subject":"hi"}'),
        ],
    )
    def test_a_call_becomes_a_json_object_of_what_was_passed(self, args: Any, kwargs: Any, text: str) -> None:
        assert Signature(send).dump(args, kwargs) == text

    def test_a_default_that_was_not_passed_is_not_stored(self) -> None:
        assert Signature(send).load(Signature(send).dump(("x",), {})) == {"to": "x"}

    def test_the_callers_dict_is_left_as_it_was(self) -> None:
        kwargs = {"data": Decimal(1), "other": [Decimal(2)]}
        Signature(untyped).dump((), kwargs)
        assert kwargs == {"data": Decimal(1), "other": [Decimal(2)]}

    @pytest.mark.parametrize(
        ("args", "kwargs", "words"),
        [
            ((), {}, "argument 'to' is missing"),
            (("a", "b", 3), {}, "has 3 positional arguments and the task takes 2"),
            (("a",), {"to": "b"}, "has argument 'to' by position and by name"),
            (("a",), {"subjet": "b"}, "no argument 'subjet', only (to, subject, copies): did you mean 'subject'?"),
            ((), {"too": "a"}, "no argument 'too', only (to, subject, copies): did you mean 'to'?"),
            ((), {"whom": "a"}, "no argument 'whom', only (to, subject, copies): correct the call"),
            ((), {"subject": "b"}, "argument 'to' is missing"),
        ],
    )
    def test_a_call_that_does_not_fit_is_refused_with_the_signature(self, args: Any, kwargs: Any, words: str) -> None:
        message = refusal(lambda: Signature(send).dump(args, kwargs))
        assert words in message
        assert "send(to, subject=…, copies=…)" in message

    def test_extra_keywords_are_arguments_of_their_own(self) -> None:
        signature = Signature(anything)
        assert signature.dump((), {"a": 1, "b": [2]}) == '{"a":1,"b":[2]}'
        assert signature.load('{"a":1,"b":[2]}') == {"a": 1, "b": [2]}

    def test_extra_keywords_are_checked_by_their_annotation(self) -> None:
        signature = Signature(numbers)
        assert signature.load(signature.dump((1,), {"z": 2})) == {"first": 1, "z": 2}
        assert "argument 'z'" in refusal(lambda: signature.dump((1,), {"z": "2"}))
        assert "argument 'z'" in refusal(lambda: signature.load('{"first":1,"z":"2"}'))

    def test_a_task_without_parameters_takes_nothing(self) -> None:
        signature = Signature(nothing)
        assert signature.load(signature.dump((), {})) == {}
        assert "takes 0" in refusal(lambda: signature.dump((1,), {}))
        assert "only (none)" in refusal(lambda: signature.load('{"a":1}'))

    def test_the_context_is_no_argument_and_its_annotation_is_not_looked_at(self) -> None:
        signature = Signature(bound, bind=True)
        assert signature.dump((7,), {}) == '{"order_id":7}'
        assert signature.load('{"order_id":7}') == {"order_id": 7}
        assert signature.context_name == "ctx"
        assert "'ctx' is the Context" in refusal(lambda: signature.dump((), {"ctx": 1, "order_id": 7}))
        assert "'ctx' is the Context" in refusal(lambda: signature.load('{"ctx":1,"order_id":7}'))

    def test_a_positional_only_context_is_fine(self) -> None:
        def task(ctx, /, a): ...  # type: ignore[no-untyped-def]

        assert Signature(task, bind=True).dump((1,), {}) == '{"a":1}'

    def test_the_context_cannot_come_in_as_an_extra_keyword(self) -> None:
        def task(ctx, **extra): ...  # type: ignore[no-untyped-def]

        assert "'ctx' is the Context" in refusal(lambda: Signature(task, bind=True).dump((), {"ctx": 1}))

    def test_bound_has_the_defaults_too(self) -> None:
        assert Signature(send).bound(("x",), {"copies": 4}) == {"to": "x", "subject": "hi", "copies": 4}
        assert "is missing" in refusal(lambda: Signature(send).bound((), {}))

    def test_partials_methods_wrappers_and_callables_work(self) -> None:
        class Mailer:
            def send(self, to: str) -> None: ...
            def __call__(self, to: Colour) -> None: ...

        @functools.wraps(send)
        def wrapper(*args: Any, **kwargs: Any) -> None: ...

        assert Signature(functools.partial(send, subject="x")).dump(("a",), {}) == '{"to":"a"}'
        assert Signature(Mailer().send).dump(("a",), {}) == '{"to":"a"}'
        assert Signature(Mailer()).load('{"to":"red"}') == {"to": Colour.RED}
        assert Signature(wrapper).dump(("a",), {}) == '{"to":"a"}'


class TestDeclaration:
    def test_star_args_are_refused_with_a_list_as_the_fix(self) -> None:
        def task(*items: int) -> None: ...

        with pytest.raises(ConfigurationError, match=r"takes \*items.*items: list\[int\]"):
            Signature(task)
        with pytest.raises(ConfigurationError, match=r"\*items"):
            Signature(task, bind=True)

    def test_positional_only_parameters_are_refused(self) -> None:
        def task(a: int, /) -> None: ...

        with pytest.raises(ConfigurationError, match=r"'a' .* positional-only.*remove the /"):
            Signature(task)

    def test_bind_needs_a_parameter(self) -> None:
        with pytest.raises(ConfigurationError, match="bind=True and has no parameter for the Context"):
            Signature(nothing, bind=True)
        with pytest.raises(ConfigurationError, match="bind=True"):
            Signature(anything, bind=True)

    def test_hints_may_name_what_is_defined_later(self) -> None:
        assert Signature(later).load('{"point":{"x":1}}') == {"point": Later(1)}

    def test_a_name_under_type_checking_is_an_error_at_the_first_use_and_not_before(self) -> None:
        signature = Signature(unseen)
        for use in (lambda: signature.dump((1, 2), {}), lambda: signature.load("{}"), signature.resolve):
            with pytest.raises(ConfigurationError, match=r"parameter 'b' of task .*unseen.*'Unseen'.*TYPE_CHECKING"):
                use()

    @pytest.mark.parametrize("hint", [object(), type("Lock", (), {}), Callable[[int], int], type[int]])
    def test_a_hint_that_nothing_can_read_back_names_parameter_and_fix(self, hint: Any) -> None:
        def task(a): ...  # type: ignore[no-untyped-def]

        task.__annotations__ = {"a": hint}
        with pytest.raises(ConfigurationError, match=r"parameter 'a' of task .*task"):
            Signature(task).dump((1,), {})

    def test_the_context_without_bind_is_a_declaration_error(self) -> None:
        Context = type("Context", (), {"__module__": "pgqueue.task"})

        def task(ctx): ...  # type: ignore[no-untyped-def]

        task.__annotations__ = {"ctx": Context}
        with pytest.raises(ConfigurationError, match="bind=True"):
            Signature(task).resolve()


class TestLoading:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("{}", "argument 'to' is missing"),
            ('{"to":"x","cc":"y"}', "no argument 'cc'"),
            ('{"to":1}', "argument 'to' of task test_arguments.send must be str, not int 1"),
            ('{"to":null}', "must be str, not None"),
            ('{"to":"x","copies":true}', "must be int, not bool True"),
            ('{"to":"x","copies":1.0}', "must be int, not float 1.0"),
            ('["x"]', "must be a JSON object, not list"),
            ("null", "must be a JSON object"),
            ('{"to":', "cannot be read as JSON"),
            ("", "cannot be read as JSON"),
            ('{"to":"x"} {}', "cannot be read as JSON"),
            ('{"copies":NaN,"to":"x"}', "NaN is not JSON"),
            ('{"copies":-Infinity,"to":"x"}', "-Infinity is not JSON"),
            ('{"to":' + "[" * 100_000, "nests deeper"),
            ('{"to":' + "[" * 70 + "]" * 70 + "}", "nests deeper"),
            ('{"to":' + '{"a":' * 5000 + "1" + "}" * 5001, "nests deeper"),
            ('{"to":"x","copies":' + "9" * 5000 + "}", "cannot be read as JSON"),
        ],
    )
    def test_stored_arguments_that_do_not_fit_are_an_argument_error(self, text: str, words: str) -> None:
        message = refusal(lambda: Signature(send).load(text))
        assert words in message.replace(__name__, "test_arguments")
        assert len(message) < 400

    def test_brackets_in_text_are_not_levels(self) -> None:
        signature = Signature(send)
        to = '[{"\\' * 500
        assert signature.load(signature.dump((to,), {})) == {"to": to}

    def test_space_around_the_json_is_fine(self) -> None:
        assert Signature(send).load(' { "to" : "x" }\n') == {"to": "x"}

    def test_integers_beyond_64_bits_are_exact(self) -> None:
        assert Signature(untyped).load('{"data":18446744073709551617}') == {"data": 2**64 + 1}

    def test_loads_reads_plain_json(self) -> None:
        assert loads('{"a":[1,2.5,null,true,"x"]}') == {"a": [1, 2.5, None, True, "x"]}
        with pytest.raises(ArgumentError, match="cannot be read as JSON"):
            loads("{'a': 1}")
        with pytest.raises(ArgumentError, match="nests deeper"):
            loads("[" * 66 + "]" * 66)
        assert loads("[" * 65 + "]" * 65)
        assert loads("[" * 100 + "]" * 100, depth=100)


def looped() -> list[Any]:
    circle: list[Any] = [1]
    circle.append({"again": circle})
    return circle


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


async def a_coroutine() -> None: ...


class Waits(Awaitable[int]):
    def __await__(self) -> Any:
        yield


class BadRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no")


REFUSED = [
    pytest.param(object(), "is <object", id="object"),
    pytest.param({1, 2}, "JSON has no sets: pass a list", id="set"),
    pytest.param(b"x", "JSON has no bytes: base64-encode it or store it", id="bytes"),
    pytest.param(float("nan"), "is nan, and JSON has neither NaN nor infinity", id="nan"),
    pytest.param(float("-inf"), "is -inf", id="inf"),
    pytest.param("a\x00b", "holds a NUL character", id="nul"),
    pytest.param("\\u0000\x00", "holds a NUL character", id="nul after its escape"),
    pytest.param("a\ud800b", "holds a lone surrogate", id="surrogate"),
    pytest.param({"a\x00": 1}, "holds a NUL character", id="nul in a key"),
    pytest.param({"\udfff": 1}, "holds a lone surrogate", id="surrogate in a key"),
    pytest.param("x" * ARGUMENTS_LIMIT, "bytes as JSON, more than 1 MiB: store it, pass its key", id="large"),
    pytest.param("é" * (ARGUMENTS_LIMIT // 2), "more than 1 MiB", id="large in bytes"),
    pytest.param(nested(65), "nests deeper than 64 levels", id="deep"),
    pytest.param(nested(50_000), "nests deeper than 64 levels", id="very deep"),
    pytest.param(looped(), "contains itself", id="circular"),
    pytest.param({1: "a"}, "the key int 1, and JSON has text keys only", id="int key"),
    pytest.param({None: "a"}, "the key None", id="None key"),
    pytest.param({("a", 1): "a"}, "the key tuple", id="tuple key"),
    pytest.param(datetime(2026, 1, 1), "naive datetime 2026-01-01T00:00:00", id="naive"),
    pytest.param(Decimal("NaN"), "not a number", id="Decimal nan"),
    pytest.param(10**4000, "an integer of more than 4000 digits: pass it as text", id="4001 digits"),
    pytest.param(-(10**6000), "an integer of more than 4000 digits", id="6001 digits"),
    pytest.param(Order(number=7), "ORM object (Order)", id="orm"),
    pytest.param(Waits(), "has not run yet: await it", id="awaitable"),
    pytest.param((one for one in "a"), "can be read only once: pass a list", id="generator"),
    pytest.param(map(str, "a"), "can be read only once", id="map"),
    pytest.param(type("Context", (), {"__module__": "pgqueue.task"})(), "is the Context", id="Context"),
    pytest.param(print, "has no JSON form", id="function"),
    pytest.param(Point, "has no JSON form", id="class"),
    pytest.param(BadRepr(), "BadRepr has no JSON form", id="bad repr"),
]


class TestRefusals:
    @pytest.mark.parametrize(("value", "words"), REFUSED)
    def test_what_jsonb_cannot_hold_is_refused_by_argument(self, value: object, words: str) -> None:
        message = refusal(lambda: Signature(untyped).dump((1, value), {}))
        assert words in message
        assert "argument 'other' of task " in message
        assert "untyped" in message
        assert len(message) < 500

    @pytest.mark.parametrize(("value", "words"), REFUSED)
    def test_and_deep_inside_with_its_place(self, value: object, words: str) -> None:
        message = refusal(lambda: Signature(untyped).dump(([{"k": value}],), {}))
        assert words in message
        if not any(one in words for one in ("MiB", "nests", "itself")):
            assert "data[0]['k']" in message

    @pytest.mark.parametrize(("value", "words"), REFUSED)
    def test_and_by_dumps(self, value: object, words: str) -> None:
        message = refusal(lambda: dumps(value, what="the result of task x", limit=ARGUMENTS_LIMIT))
        assert words in message
        assert message.startswith("the result of task x")

    @pytest.mark.parametrize(
        ("value", "advice"),
        [
            ({1, 2}, "JSON has no sets: {} a list"),
            (b"x", "JSON has no bytes: base64-encode it or store it"),
            (print, "has no JSON form: {} plain values"),
            ({1: "a"}, "text keys only: use str keys"),
            (float("nan"), "NaN nor infinity: {} None or leave it out"),
            ("x" * ARGUMENTS_LIMIT, "more than 1 MiB: store it, {} its key"),
            (nested(65), "64 levels: store the data and {} its key"),
            (looped(), "cannot say: {} an id in place of the reference back"),
            (Order(number=7), "tied to its session: {} its number"),
        ],
    )
    def test_the_advice_is_for_an_argument_or_for_a_result(self, value: object, advice: str) -> None:
        """Only a parameter's annotation helps; a result is returned, not passed."""
        result = refusal(lambda: dumps(value, what="the result of task x", limit=ARGUMENTS_LIMIT, returned=True))
        assert result.endswith(advice.format("return"))
        for words in ("pass", "annotate"):
            assert words not in result
        by_name = refusal(lambda: dumps(value, what="args of x", limit=ARGUMENTS_LIMIT))
        assert "annotate" not in by_name
        if not isinstance(value, Order):
            assert by_name.endswith(advice.format("pass"))
        argument = refusal(lambda: Signature(untyped).dump((value,), {}))
        assert ("annotate" in argument) == (type(value) in (set, bytes, type(print)) or value == {1: "a"})

    def test_a_naive_datetime_names_the_fix(self) -> None:
        assert "datetime.now(UTC)" in refusal(lambda: Signature(untyped).dump((datetime(2026, 1, 1),), {}))

    def test_a_coroutine_is_refused(self) -> None:
        coroutine = a_coroutine()
        assert "await it" in refusal(lambda: Signature(untyped).dump((coroutine,), {}))
        assert "await it" in refusal(lambda: Signature(send).dump((coroutine,), {}))
        asyncio.run(coroutine)

    def test_an_orm_object_is_answered_with_the_expression_to_pass(self) -> None:
        assert "pass data.number and load it" in refusal(lambda: Signature(untyped).dump((Order(number=7),), {}))
        assert "pass data['a'][0].number" in refusal(lambda: Signature(untyped).dump(({"a": [Order()]},), {}))
        assert "pass to.number" in refusal(lambda: Signature(send).dump((Order(),), {}))
        line = refusal(lambda: Signature(untyped).dump((Line(order=1, position=2),), {}))
        assert "pass data.order and its other keys (position)" in line

    def test_an_orm_class_as_annotation_refuses_its_objects_likewise(self) -> None:
        def task(order: Order) -> None: ...

        assert "pass order.number" in refusal(lambda: Signature(task).dump((Order(number=7),), {}))
        assert "pass" in refusal(lambda: Signature(task).dump((7,), {}))

    def test_a_name_with_nul_among_extra_keywords_is_refused(self) -> None:
        assert "NUL" in refusal(lambda: Signature(anything).dump((), {"a\x00": 1}))

    def test_arguments_that_are_too_large_only_together_are_refused(self) -> None:
        half = "x" * (ARGUMENTS_LIMIT // 2)
        message = refusal(lambda: Signature(untyped).dump((half, half), {}))
        size = len('{"data":"","other":""}') + ARGUMENTS_LIMIT
        assert f"untyped is called with is {size:,} bytes as JSON, more than 1 MiB" in message

    def test_the_limit_itself_passes(self) -> None:
        room = ARGUMENTS_LIMIT - len('{"to":""}')
        assert len(Signature(send).dump(("x" * room,), {})) == ARGUMENTS_LIMIT
        assert "more than" in refusal(lambda: Signature(send).dump(("x" * (room + 1),), {}))
        assert dumps("x" * 8, what="it", limit=10) == '"xxxxxxxx"'
        assert "11 bytes as JSON, more than 10 bytes" in refusal(lambda: dumps("x" * 9, what="it", limit=10))

    def test_the_depth_limit_itself_passes_and_can_be_set(self) -> None:
        signature = Signature(untyped)
        assert signature.load(signature.dump((nested(64),), {})) == {"data": nested(64)}
        assert dumps(nested(3), what="it", limit=100, depth=3) == "[[[]]]"
        assert "nests deeper" in refusal(lambda: dumps(nested(4), what="it", limit=100, depth=3))

    def test_a_shared_value_is_no_circle(self) -> None:
        shared = [1]
        assert plain([shared, shared]) == [[1], [1]]

    @pytest.mark.parametrize("text", ["\\u0000", '\\"\\u0000', "\\ud800", "9" * 5000, "é", "😀", "\u2028", '"', "\x1f"])
    def test_text_that_only_looks_like_trouble_passes(self, text: str) -> None:
        signature = Signature(send)
        assert signature.load(signature.dump((text,), {})) == {"to": text}

    def test_an_integer_of_4000_digits_passes(self) -> None:
        assert plain(10**4000 - 1) == 10**4000 - 1


class TestUntyped:
    @pytest.mark.parametrize(
        ("value", "form"),
        [
            (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00"),
            (date(2026, 1, 2), "2026-01-02"),
            (time(1, 2), "01:02:00"),
            (timedelta(minutes=-1, microseconds=-500_000), "PT-60.5S"),
            (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
            (Decimal("1.50"), "1.50"),
            (Colour.RED, "red"),
            (Level.HIGH, 3),
            (Shade.PAIR, [1, 2]),
            (Shade.DARK, "dark"),
            ((1, (2, "x")), [1, [2, "x"]]),
            (Pair(1, 2), [1, 2]),
            (Point(1, datetime(2026, 1, 1, tzinfo=UTC)), {"x": 1, "at": "2026-01-01T00:00:00+00:00"}),
            ({Colour.RED: {"a": Point(1)}}, {"red": {"a": {"x": 1, "at": None}}}),
            (True, True),
        ],
    )
    def test_well_known_types_take_their_obvious_form(self, value: object, form: object) -> None:
        back = plain(value)
        assert back == form
        assert type(back) is type(form)
        assert Signature(untyped).load(Signature(untyped).dump((value,), {})) == {"data": form}

    def test_subclasses_of_json_types_become_those_types(self) -> None:
        class Text(str):
            def __str__(self) -> str:
                return "wrong"

        class Number(int):
            def __repr__(self) -> str:
                return "wrong"

        assert plain([Text("x"), Number(2), {Text("k"): 1}]) == ["x", 2, {"k": 1}]

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )

    @given(json_values)
    def test_whatever_is_accepted_comes_back_equal_and_otherwise_it_is_an_argument_error(self, value: Any) -> None:
        try:
            text = dumps(value, what="it", limit=ARGUMENTS_LIMIT)
        except ArgumentError as error:
            message = str(error)
        else:
            assert loads(text) == value
            return
        assert "NUL" in message

    @given(st.text(st.characters()))
    def test_any_text_is_stored_or_refused(self, value: str) -> None:
        bad = "\x00" in value or any("\ud800" <= one <= "\udfff" for one in value)
        try:
            text = dumps(value, what="it", limit=ARGUMENTS_LIMIT)
        except ArgumentError:
            assert bad
        else:
            assert not bad
            assert loads(text) == value
