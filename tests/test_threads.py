"""The pool of threads (ext/pool.h), and how many threads a process takes."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import convlayers as cl
from convlayers import functional as F
from convlayers import kernels
from convlayers.kernels import _threads
from convlayers.kernels.cpus import usable_cpus
from convlayers.randomness import generator

own_threads = pytest.mark.skipif(not _threads.own, reason="here the compiler's OpenMP runtime has the threads")


@pytest.fixture
def layer():
    """Layers with enough work for threads, whose kernels wait for all within or do not, and what one thread makes of them."""
    x, w = (generator(0, what).standard_normal(shape) for what, shape in (("x", (8, 16, 24, 24)), ("w", (16, 16, 3, 3))))

    def passes(dtype):
        a, b = x.astype(dtype), w.astype(dtype)
        y = F.conv2d(a, b, padding=1)
        dx, dw = F.conv2d_backward_input(y, b, a.shape, padding=1), F.conv2d_backward_weight(y, a, b.shape, padding=1)[0]
        return y, dx, dw, F.conv2d(a, b[:, :1], padding=1, groups=16), F.linear(a.reshape(128, -1), a.reshape(128, -1)[:9])

    with kernels.using(threads=1):
        expected = {dtype: passes(dtype) for dtype in (np.float32, np.float64)}

    def right(dtype=np.float32):
        return all(np.array_equal(*pair) for pair in zip(passes(dtype), expected[dtype], strict=True))

    return right


@own_threads
def test_one_pool_for_all_kernels():
    """Data types, instruction sets and later kernels share it; it grows to the largest count that anybody asked for."""
    code = """
import numpy as np
from convlayers import functional as F, kernels
from convlayers.kernels import _threads
for threads in (1, 2, 5, 3):
    for isa in kernels.available():
        with kernels.using(isa=isa, threads=threads):
            for dtype in (np.float32, np.float64):
                F.conv2d(np.ones((8, 16, 24, 24), dtype), np.ones((16, 16, 3, 3), dtype))
    print(_threads.workers())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1", "4", "4"]


@pytest.mark.parametrize("count", [2, 7])
def test_python_threads_share_the_pool(layer, count):
    """More of them than processors, each with kernels of three threads, in both types: right results, no thread for each."""
    before, wrong, ready = _threads.workers(), [], threading.Barrier(count)

    def compute(dtype):
        ready.wait()
        wrong.extend(n for n in range(20) if not layer(dtype))

    with kernels.using(threads=3):
        threads = [threading.Thread(target=compute, args=((np.float32, np.float64)[i % 2],)) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert _threads.workers() <= max(before, 2, usable_cpus() - 1)


@own_threads
@pytest.mark.parametrize("seconds", [0.0001, 0.001, 0.02])
def test_threads_wake_up_again(layer, seconds):
    """About when they fall asleep, and long after."""
    with kernels.using(threads=3):
        for _ in range(40):
            time.sleep(seconds)
            assert layer()


@own_threads
def test_threads_that_come_late_are_stood_in_for(layer):
    """Far more threads than processors: most of them have not begun when the caller is done, where it does not wait within."""
    with kernels.using(threads=60):
        for _ in range(20):
            assert layer()


@own_threads
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="this system does not list a process's threads")
def test_signals_are_for_the_programs_threads():
    code = """
import os, numpy as np
from convlayers import functional as F, kernels
before = set(os.listdir("/proc/self/task"))
with kernels.using(threads=2):
    F.conv2d(np.ones((8, 16, 24, 24), np.float32), np.ones((16, 16, 3, 3), np.float32))
[new] = set(os.listdir("/proc/self/task")) - before
[blocked] = [line.split()[1] for line in open(f"/proc/self/task/{new}/status") if line.startswith("SigBlk")]
print(int(blocked, 16) >> 1 & 1, int(blocked, 16) >> 14 & 1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]  # SIGINT and SIGTERM


# What /proc/self/cgroup says, the files of the control groups, and how many processors they leave of a hundred.
QUOTAS = {
    "none": ("", {}, 100),
    "no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, 100),
    "two": ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
    "two and a half": ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
    "a tenth": ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
    "around it": ("0::/a.slice/b\n", {"a.slice/b/cpu.max": "max 100000\n", "a.slice/cpu.max": "400000 100000\n"}, 4),
    "the least": ("0::/a\n", {"a/cpu.max": "300000 100000\n", "cpu.max": "500000 100000\n"}, 3),
    "version 1": ("3:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "200000\n", "cpu/x/cpu.cfs_period_us": "50000\n"}, 4),
    "version 1, no limit": ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 100),
    "version 1, of another kind": ("4:memory:/\n", {"cpu/cpu.cfs_quota_us": "1\n", "cpu/cpu.cfs_period_us": "1\n"}, 100),
    "nonsense": ("what\n\n0::/\n", {"cpu.max": "many\n"}, 100),
    "no time": ("0::/\n", {"cpu.max": "0 0\n"}, 100),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_quotas_of_control_groups(tmp_path, monkeypatch, case):
    groups, files, expected = QUOTAS[case]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(100)), raising=False)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert usable_cpus(str(tmp_path)) == expected


def test_usable_cpus_of_this_process():
    assert 1 <= usable_cpus() <= (os.cpu_count() or 1)
    assert cl.get_num_threads() >= 1
