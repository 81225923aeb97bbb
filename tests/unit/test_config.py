"""Where settings come from, and the forms of a DSN."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg import conninfo

from pgqueue.config import Setting, find, libpq_dsn, masked, required_dsn, sqlalchemy_url
from pgqueue.errors import ConfigurationError

PG_VARIABLES = ("HOST", "HOSTADDR", "DATABASE", "USER", "SERVICE", "PORT")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and no variable that would count."""
    for name in ("PGQUEUE_DSN", "DATABASE_URL", *(f"PG{part}" for part in PG_VARIABLES)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_given_beats_the_variable_which_beats_the_file(tmp_path: Path) -> None:
    (tmp_path / "pgqueue.toml").write_text('schema = "from_file"\n')
    environ = {"PGQUEUE_SCHEMA": "from_variable"}
    assert find("schema", "given", environ=environ, folder=tmp_path) == Setting("given", "given")
    assert find("schema", environ=environ, folder=tmp_path) == Setting("from_variable", "PGQUEUE_SCHEMA")
    assert find("schema", environ={}, folder=tmp_path) == Setting("from_file", "pgqueue.toml")
    assert find("app", environ={}, folder=tmp_path) == Setting(None, "not set")


def test_an_own_file_beats_the_table_in_pyproject(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.pgqueue]\nschema = "two"\napp = "shop:app"\n')
    assert find("schema", environ={}, folder=tmp_path) == Setting("two", "pyproject.toml")
    (tmp_path / "pgqueue.toml").write_text('schema = "one"\n')
    assert find("schema", environ={}, folder=tmp_path).value == "one"
    assert find("app", environ={}, folder=tmp_path) == Setting("shop:app", "pyproject.toml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('dns = "postgresql:///shop"', r"pgqueue.toml has a setting 'dns', which nothing reads: did you mean dsn\?"),
        ("concurrency = 5", "'concurrency', which nothing reads: write dsn, schema, app"),
        ("dsn = 5", "dsn = 5 must be text"),
    ],
)
def test_a_setting_of_a_file_that_nothing_reads_is_refused(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "pgqueue.toml").write_text(line)
    with pytest.raises(ConfigurationError, match=message):
        find("schema", environ={}, folder=tmp_path)


def test_an_empty_variable_is_not_set(tmp_path: Path) -> None:
    assert find("dsn", environ={"PGQUEUE_DSN": "", "DATABASE_URL": "postgresql:///b"}, folder=tmp_path) == Setting(
        "postgresql:///b", "DATABASE_URL"
    )


def test_the_dsn_is_looked_for_in_the_order_of_the_documentation(tmp_path: Path) -> None:
    everywhere = {"PGQUEUE_DSN": "postgresql:///a", "DATABASE_URL": "postgresql:///b", "PGHOST": "h"}
    (tmp_path / "pgqueue.toml").write_text('dsn = "postgresql:///file"\n')
    sources = []
    for gone in ("", "PGQUEUE_DSN"):
        everywhere.pop(gone, None)
        sources.append(find("dsn", environ=everywhere, folder=tmp_path).source)
    (tmp_path / "pgqueue.toml").unlink()
    sources.append(find("dsn", environ=everywhere, folder=tmp_path).source)
    del everywhere["DATABASE_URL"]
    sources.append(find("dsn", environ=everywhere, folder=tmp_path).source)
    assert sources == ["PGQUEUE_DSN", "pgqueue.toml", "DATABASE_URL", "PG* variables"]


@pytest.mark.parametrize("variable", PG_VARIABLES)
def test_any_of_libpqs_variables_is_a_dsn(variable: str, tmp_path: Path) -> None:
    assert find("dsn", environ={f"PG{variable}": "x"}, folder=tmp_path) == Setting("", "PG* variables")


def test_other_settings_do_not_read_the_dsns_variables(tmp_path: Path) -> None:
    assert find("schema", environ={"DATABASE_URL": "postgresql:///b", "PGHOST": "h"}, folder=tmp_path).value is None


@pytest.mark.parametrize("name", ["pgqueue.toml", "pyproject.toml"])
@pytest.mark.parametrize("content", [b"= nonsense", b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"{name} cannot be read"):
        find("schema", environ={}, folder=tmp_path)


@pytest.mark.parametrize("content", ['tool = "x"\n', '[tool]\npgqueue = "x"\n', "[tool]\npgqueue = [1]\n"])
def test_a_pyproject_whose_table_is_none_is_no_traceback(tmp_path: Path, content: str) -> None:
    (tmp_path / "pyproject.toml").write_text(content)
    with pytest.raises(ConfigurationError, match=r"pyproject.toml cannot be read"):
        find("schema", environ={}, folder=tmp_path)


def test_without_a_dsn_the_error_says_where_to_set_one(nowhere: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--dsn or PgQueue\(dsn\), or set PGQUEUE_DSN or DATABASE_URL"):
        required_dsn()


@pytest.mark.parametrize(
    "prefix", ["postgresql://", "postgres://", "postgresql+psycopg://", "postgresql+psycopg_async://"]
)
def test_all_spellings_of_a_url_are_read(prefix: str) -> None:
    assert libpq_dsn(f"{prefix}u:p@h:5433/d?sslmode=require") == "postgresql://u:p@h:5433/d?sslmode=require"


def test_a_key_value_dsn_stays_as_it_is() -> None:
    assert libpq_dsn("host=/tmp dbname=d") == "host=/tmp dbname=d"


@pytest.mark.parametrize("dsn", ["mysql://u:secret@h/d", "postgresql://h/d?nosuch=1", "host"])
def test_a_dsn_that_libpq_cannot_read_is_refused_without_its_password(dsn: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read") as refusal:
        libpq_dsn(dsn)
    assert "secret" not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        ("garbage", "the DSN 'garbage' cannot be read: it is neither a URL nor made of name=value; write"),
        ("mysql://u:secret@h/d", "the DSN mysql://… cannot be read: mysql:// is not PostgreSQL; write"),
        ("postgresql+asyncpg://u:secret@h/d", "pgqueue does not use the driver asyncpg; write"),
        ("host=h password=my secret", 'a part of it has no "=", or a value with a space has no quotes; write'),
        ("postgresql://u:secret%ZZ@h/d", 'invalid percent-encoded token: "…"; write'),
    ],
)
def test_what_is_wrong_with_a_dsn_is_said_whole_and_without_its_password(dsn: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        libpq_dsn(dsn)
    assert message in str(refusal.value)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:p%40%2F@h:5433/d?sslmode=require&application_name=a%20b",
        "postgresql:///d?host=/tmp/a%20b&port=5433",
        "host=h1,h2 port=1,2 dbname=d user='a b' password='p w' target_session_attrs=read-write",
        "postgresql://",
    ],
)
def test_a_sqlalchemy_url_says_the_same_as_the_dsn(dsn: str) -> None:
    url = sqlalchemy_url(dsn)
    assert url.drivername == "postgresql+psycopg"
    parts = {k: v for k, v in {"user": url.username, "password": url.password, "dbname": url.database}.items() if v}
    assert {**parts, **url.query} == conninfo.conninfo_to_dict(dsn)


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://u:secret@h:5433/d", "postgresql://u:***@h:5433/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql:///d", "postgresql:///d"),
        ("postgresql:///d?password=secret&user=u", "postgresql://u:***@/d"),
        ("host=h password=secret dbname=d", "host=h password=*** dbname=d"),
        ("no dsn at all: secret", "(not readable)"),
        ("postgresql://u:secr@secret#1@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:secret@@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:se/secret@h:5433/d?sslmode=require", "postgresql://u:***@h:5433/d"),
        ("", "(all from libpq's variables)"),
    ],
)
def test_a_dsn_for_people_has_no_password(dsn: str, shown: str) -> None:
    found = masked(dsn)
    assert "secret" not in found
    assert conninfo.conninfo_to_dict(found) == conninfo.conninfo_to_dict(shown) if "=" in shown else found == shown


@pytest.mark.parametrize("dsn", ["postgresql://u:se@secret#1@h/d", "postgres://u:se/secret@h:5433/d"])
def test_a_password_that_is_not_encoded_is_refused_with_how_to_write_it(dsn: str) -> None:
    with pytest.raises(ConfigurationError, match="write @ as %40, / as %2F") as refusal:
        libpq_dsn(dsn)
    assert "secret" not in str(refusal.value)
    for good in ("postgresql://h:5432/my@db", "postgresql://u:p@[::1]:5432/d", "postgresql:///d?host=/tmp/a@b"):
        assert libpq_dsn(good) == good
