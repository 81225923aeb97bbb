"""Finding and importing the user's app."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pgqueue.errors import ConfigurationError

if TYPE_CHECKING:
    from pgqueue.app import PgQueue

# Tasks first: importing them imports the app, while the app's module need not know its tasks.
USUAL = ("tasks", "jobs", "worker", "app", "main")
DECLARES = re.compile(r"\bPgQueue\(|^\s*@[\w.]+\.task\b", re.MULTILINE)


class NoApp(ConfigurationError):
    """There is no app where one was looked for."""


def load(spec: str | None) -> PgQueue:
    """The app that `module:name` or `module` names, or the only one in the usual modules of the working directory."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if spec is None:
        return discover(Path.cwd())
    module, colon, path = spec.partition(":")
    if not module:
        raise ConfigurationError(f"--app {spec!r} names no module: write such as shop.tasks or shop.tasks:app")
    if module.endswith(".py") or "/" in module:
        dotted = ".".join(Path(module).with_suffix("").parts)
        raise ConfigurationError(f"{spec!r} is a file: name the module, such as {dotted}{colon}{path}")
    imported = imported_module(module)
    if not path:
        return only_app(apps_of(imported), f"module {module}", f"{module}:app")
    return named_app(imported, path)


def discover(folder: Path) -> PgQueue:
    """Import the modules of the usual names that declare an app or tasks, here and one folder below."""
    modules = list(candidates(folder))
    found = [pair for module in modules for pair in apps_of(imported_module(module))]
    where = f"{', '.join(modules)}" if modules else f"the usual modules ({'.py, '.join(USUAL)}.py) of {folder}"
    return only_app(found, where, "shop.tasks:app")


def candidates(folder: Path) -> Iterator[str]:
    packages = sorted(path.parent for path in folder.glob("*/__init__.py") if path.parent.name != "tests")
    for place in (folder, *packages):
        prefix = "" if place == folder else f"{place.name}."
        for name in USUAL:
            file = place / f"{name}.py"
            if file.is_file() and DECLARES.search(file.read_text(encoding="utf-8", errors="replace")):
                yield prefix + name


def apps_of(module: ModuleType) -> list[tuple[str, PgQueue]]:
    from pgqueue.app import PgQueue

    return [(f"{module.__name__}:{n}", value) for n, value in vars(module).items() if isinstance(value, PgQueue)]


def spec_of(app: PgQueue) -> str:
    """What names an app that was found without a name."""
    imported = (sys.modules[name] for name in candidates(Path.cwd()) if name in sys.modules)
    return next((spec for module in imported for spec, found in apps_of(module) if found is app), "MODULE:APP")


def only_app(found: list[tuple[str, PgQueue]], where: str, example: str) -> PgQueue:
    apps = {id(app): (name, app) for name, app in reversed(found)}
    if len(apps) == 1:
        [(_, app)] = apps.values()
        return app
    if not apps:
        raise NoApp(f"no PgQueue app in {where}: name yours, such as --app {example}, or set PGQUEUE_APP")
    names = " or ".join(sorted(name for name, _ in apps.values()))
    raise ConfigurationError(f"several apps in {where}: choose one with --app {names}")


def named_app(module: ModuleType, path: str) -> PgQueue:
    from pgqueue.app import PgQueue

    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            hint = "".join(f"; did you mean {name}?" for name, _ in apps_of(module)[:1])
            raise ConfigurationError(f"module {module.__name__} has no {path!r}{hint}")
        found = getattr(found, part)
    if not isinstance(found, PgQueue):
        raise ConfigurationError(f"{module.__name__}:{path} is a {type(found).__name__}, not a PgQueue app")
    return found


def imported_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigurationError(absent(error.name)) from error
        failed = failed_import(name, error)
        if error.name and (hint := folder_above(error.name)):
            failed = ConfigurationError(f"{failed}\nThe working directory {Path.cwd()} is on the path; {hint}")
        raise failed from error
    except Exception as error:
        raise failed_import(name, error) from error


def absent(name: str) -> str:
    """That there is no such module, where it was looked for, and where to start instead."""
    package, _, _ = name.rpartition(".")
    if package:
        where = ", ".join(getattr(sys.modules.get(package), "__path__", []))
        return f"there is no module {name!r} in the package {package}" + (f", which is {where}" if where else "")
    hint = folder_above(name) or "Start from your project's directory, or set PYTHONPATH to it"
    return f"there is no module {name!r}: the working directory {Path.cwd()} is on the path and has no {name}. {hint}"


def folder_above(name: str) -> str:
    """Where to start, if a folder above the working directory has the module; else nothing."""
    top = name.partition(".")[0]
    for folder in Path.cwd().parents:
        if (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file():
            return f"{folder} has {top}: start there, or set PYTHONPATH={folder}"
    return ""


def failed_import(name: str, error: Exception) -> ConfigurationError:
    """With the user's own part of the traceback: their code raised, so they need the line."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _machinery(frame.filename)]
    where = "".join(traceback.format_list(frames)).rstrip()
    what = "".join(traceback.format_exception_only(error)).rstrip()
    return ConfigurationError(f"importing {name} failed:\n" + (f"{where}\n{what}" if where else what))


def _machinery(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or filename in (importlib.__file__, __file__)
