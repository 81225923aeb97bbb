"""Names of queues, tasks and schemas."""

from __future__ import annotations

import pytest

from pgqueue.errors import ConfigurationError
from pgqueue.names import data_name, schema_name


@pytest.mark.parametrize("name", ["email", "shop.tasks.send_email", "A-1", "_x", ".x", "9", "x" * 100])
def test_a_data_name_is_letters_digits_and_a_few_signs(name: str) -> None:
    assert data_name("queue", name) == name


@pytest.mark.parametrize(
    "name",
    ["", "-x", "a b", "a:b", "a/b", "a,b", "a*", "ü", "a\n", "\x00", "x" * 101, None, 3, b"x", "a'; drop"],
)
def test_any_other_is_refused_with_the_kind_the_name_and_the_rule(name: object) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        data_name("task", name)
    assert str(refusal.value).startswith(f"task name {name!r} is not valid")
    assert "1 to 100" in str(refusal.value)


@pytest.mark.parametrize("name", ["pgqueue", "_jobs", "a1", "x" * 63])
def test_a_schema_name_is_an_identifier_that_needs_no_quotes(name: str) -> None:
    assert schema_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "Jobs", "1a", "a-b", "a.b", "a b", 'a"b', "ü", "a\n", "x" * 64, "pg_jobs", "public", None, 3]
)
def test_a_schema_name_that_needs_quotes_or_belongs_to_postgresql_is_refused(name: object) -> None:
    with pytest.raises(ConfigurationError, match=r"schema name .* is not valid"):
        schema_name(name)
