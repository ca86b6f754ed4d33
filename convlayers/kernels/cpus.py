"""How many processors this process may use: those it is bound to, or fewer where its control group has a quota of time.

A container with two processors' time on a machine of 64 may run on all of them, and 64 threads would use its time up in a
thirtieth of each period and then stand still. Control groups: https://docs.kernel.org/admin-guide/cgroup-v2.html (`cpu.max`),
https://docs.kernel.org/scheduler/sched-bwc.html (version 1).
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["usable_cpus"]


def usable_cpus(root: str = "/") -> int:
    """At least 1; `root` is where `proc` and `sys` are, for tests."""
    affinity = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    return max(1, min([len(affinity(0)), *(math.ceil(quota) for quota in _quotas(Path(root)))]))


def _quotas(root: Path) -> Iterator[float]:
    """What each control group of the process and those around it may use, in processors; infinite ones are left out."""
    for line in _words(root / "proc/self/cgroup", "\n"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = PurePosixPath(path.lstrip("/"))
        for folder in (group, *group.parents):
            if controllers:
                limit = [*_words(mount / folder / "cpu.cfs_quota_us"), *_words(mount / folder / "cpu.cfs_period_us")]
            else:
                limit = _words(mount / folder / "cpu.max")
            if len(limit) == 2 and limit[0].isdecimal() and limit[1].isdecimal() and int(limit[1]):
                yield int(limit[0]) / int(limit[1])


def _words(path: Path, separator: str | None = None) -> list[str]:
    try:
        return path.read_text().strip().split(separator)
    except (OSError, UnicodeError):
        return []
