"""A key is filled alike wherever: by `filled` in Python, by `fill_key` in SQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgqueue import ArgumentError
from pgqueue.task.options import filled

Connection = psycopg.Connection[Any]
PLAIN = st.text(st.characters(exclude_categories=("C", "Z")), max_size=8)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-(10**30), 10**30), PLAIN, st.sampled_from(["{a}", "{", "}}"]))
PIECES = st.sampled_from(["{a}", "{b}", "{{", "}}", "-", "{{a}}", "a", "%s", "\\1"])


@pytest.fixture
def connection(dsn: str) -> Iterator[Connection]:
    with psycopg.connect(dsn, autocommit=True) as made:
        yield made


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(PIECES, min_size=1, max_size=6), args=st.fixed_dictionaries({"a": VALUES, "b": VALUES}))
def test_sql_and_python_fill_a_key_alike(connection: Connection, pieces: list[str], args: dict[str, Any]) -> None:
    template = "".join(pieces)
    [[in_sql]] = connection.execute("select pgqueue.fill_key(%s, %s::jsonb)", [template, json.dumps(args)])
    if in_sql:
        assert filled(template, args) == in_sql
    else:
        with pytest.raises(ArgumentError, match="1 to 500"):
            filled(template, args)


@pytest.mark.parametrize("value", [1.5, 1.0, 1e-7, [1], {"x": 1}])
def test_what_has_another_text_there_is_refused_by_both(connection: Connection, value: Any) -> None:
    with pytest.raises(ArgumentError, match=r"cannot be filled with a=.*: a key is made of text, whole numbers"):
        filled("{a}", {"a": value})
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="cannot be filled with 'a': "):
        connection.execute("select pgqueue.fill_key('{a}', %s::jsonb)", [json.dumps({"a": value})])


WRONG = ["{", "}", "{a", "a}", "{a}}", "{{a}", "{a.b}", "{a[b]}", "{a!r}", "{a:d}", "{}", "{c}"]


@pytest.mark.parametrize("key", WRONG)
def test_sql_refuses_what_it_cannot_fill(connection: Connection, key: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"is no template|cannot be filled from"):
        connection.execute("select pgqueue.fill_key(%s, %s)", [key, '{"a": 1}'])
