"""Templates of keys: `{name}` stands for an argument of the job, doubled braces for a brace. As SQL's `fill_key`."""

from __future__ import annotations

from collections.abc import Callable
from string import Formatter

from pgqueue.errors import ConfigurationError

LENGTH = 200
UNFIT = (float, list, tuple, dict, set, frozenset)
"""They have other texts in Python than in PostgreSQL."""


def checked_template(template: object, what: str) -> str:
    """A template that Python and SQL can fill. `what` begins the message of the ConfigurationError that it raises.

    checked_template("order-{order_id}", "serial_key")
    """
    if type(template) is not str or not 1 <= len(template) <= LENGTH:
        raise ConfigurationError(
            f"{what}={str(template)[:60]!r} is no template: name arguments in braces, as in '{{customer_id}}', in 1 to "
            f"{LENGTH} characters"
        )
    try:
        fields = [(name, spec, conversion) for _, name, spec, conversion in Formatter().parse(template)]
    except ValueError as error:
        raise ConfigurationError(f"{what}={template!r}: {error}; a brace that is meant is doubled") from None
    for name, spec, conversion in fields:
        if name is not None and (not name.isidentifier() or spec or conversion):
            raise ConfigurationError(
                f"{what}={template!r}: name arguments in braces, as in '{{customer_id}}', and nothing else"
            )
    return template


def names_in(template: str) -> set[str]:
    """The arguments that a template names."""
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def replaced(template: str, text_of: Callable[[str], str]) -> str:
    """The template with the text of each argument in its place.

    replaced("order-{id}", lambda name: "7")    # "order-7"
    """
    return "".join(
        literal + ("" if name is None else text_of(name)) for literal, name, _, _ in Formatter().parse(template)
    )


def as_text(value: object) -> str:
    """An argument as SQL writes it."""
    return str(value).lower() if value is True or value is False else str(value)
