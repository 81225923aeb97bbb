"""Which versions of the tables this pgqueue works on."""

from __future__ import annotations

from pgqueue.errors import SchemaOutOfDate

ACCEPTED = ("0001",)


def check_revision(found: list[str], schema: str) -> None:
    """Raises SchemaOutOfDate for tables that are missing, older or newer than this code accepts; repairs nothing.

    check_revision(["0001"], "pgqueue")
    """
    command = "pgqueue migrate" if schema == "pgqueue" else f"pgqueue migrate --schema {schema}"
    if not found:
        raise SchemaOutOfDate(f"the schema {schema!r} has no tables of pgqueue: run `{command}`")
    if found[0] not in ACCEPTED:
        newer = found[0] > ACCEPTED[-1]
        fix = "upgrade the pgqueue package" if newer else f"run `{command}`"
        raise SchemaOutOfDate(
            f"the tables in schema {schema!r} are at revision {found[0]}; "
            f"this pgqueue works on {', '.join(ACCEPTED)}: {fix}"
        )
