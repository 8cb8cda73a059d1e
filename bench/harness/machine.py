"""The machine and the versions that a benchmark ran on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil
from redis import Redis

from stream.local.jars import chosen_version

_PACKAGES: Final = ("faust-streaming", "aiokafka", "redis", "hiredis", "numpy", "msgspec", "uvloop", "scikit-learn")


def machine(redis: Redis) -> dict[str, Any]:
    """Return cores, processor, memory (GB) and system of this machine, and the versions of the measured software."""
    server: Any = redis.info("server")
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "kafka": chosen_version(),
        "valkey": server.get("valkey_version") or server["redis_version"],
        "packages": {name: version(name) for name in _PACKAGES},
    }


def _cpu() -> str:
    """Return the processor's name as the system reports it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
