"""Readings of memory: real ones from this machine, and a driver that exists only here."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import attrs
import numpy as np
import pytest

from sttd.engine import memory


@pytest.fixture
def no_driver(monkeypatch):
    monkeypatch.setattr(memory, "_nvml", lambda: None)


class NVMLError(Exception):
    pass


@attrs.define
class Driver:
    """As much of pynvml as is used."""

    used: int = 5_000
    fails: bool = False
    asked: int = -1
    NVMLError = NVMLError

    def nvmlDeviceGetCount(self):
        if self.fails:
            raise NVMLError
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):
        if self.fails:
            raise NVMLError
        self.asked = index
        return index

    def nvmlDeviceGetMemoryInfo(self, handle):
        return attrs.make_class("Info", {"total": attrs.field(default=24_000), "free": attrs.field(default=20_000)})()

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        process = attrs.make_class("Process", ["pid", "usedGpuMemory"])
        return [process(os.getpid(), self.used), process(os.getpid(), None), process(1, 7)]


@pytest.fixture
def driver(monkeypatch):
    made = Driver()
    monkeypatch.setattr(memory, "_nvml", lambda: made)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return made


def test_resident_memory_follows_what_is_touched():
    # Half and half: what else the process takes or gives back meanwhile is far less than a quarter of the block.
    before = memory.process_rss_bytes()
    block = np.ones(256 * 1024**2, np.uint8)
    assert memory.process_rss_bytes() - before > 128 * 1024**2
    del block
    assert memory.trim() in (True, False)
    assert memory.process_rss_bytes() - before < 128 * 1024**2


def test_available_memory_is_what_the_kernel_says(monkeypatch):
    assert 0 < memory.available_bytes() <= memory.total_bytes()  # the total does not change
    monkeypatch.setattr(memory, "_available_of_cgroup", lambda: 5)
    assert memory.available_bytes() == 5


def cgroup(tmp_path, monkeypatch, *, limit="1000", current="900", stat="anon 1\ninactive_file 300\n"):
    folder = tmp_path / "system.slice" / "sttd.service"
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text(limit)
    (folder / "memory.current").write_text(current)
    (folder / "memory.stat").write_text(stat)
    own = tmp_path / "cgroup"
    own.write_text("0::/system.slice/sttd.service\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_CGROUP", own)


def test_a_limit_of_the_service_counts_and_its_file_cache_does_not(tmp_path, monkeypatch):
    cgroup(tmp_path, monkeypatch)
    assert memory.available_bytes() == 400
    assert memory.total_bytes() == 1000


def test_a_limit_of_what_the_service_is_part_of_counts_too(tmp_path, monkeypatch):
    cgroup(tmp_path, monkeypatch)
    above = tmp_path / "system.slice"
    for name, text in {"memory.max": "800", "memory.current": "700", "memory.stat": "inactive_file 50\n"}.items():
        (above / name).write_text(text)
    assert (memory.available_bytes(), memory.total_bytes()) == (150, 800)


@pytest.mark.parametrize("changes", [{"limit": "max"}, {"stat": "anon 1\n"}, {"current": "?"}])
def test_without_a_readable_limit_there_is_none(tmp_path, monkeypatch, changes):
    cgroup(tmp_path, monkeypatch, **changes)
    monkeypatch.setattr(memory, "_of_machine", lambda name: 7_000_000_000)  # which changes from one look to the next
    assert memory.available_bytes() == 7_000_000_000


V1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/a/b", {"a/b/cpu.max": "50000 100000"}, 1),
        ("0::/a/b", {"a/b/cpu.max": "250000 100000"}, 3),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "20000 10000"}, 2),  # of what it is part of
        ("0::/a/b", {"a/b/cpu.max": "300000 100000", "a/cpu.max": "600000 100000"}, 3),
        ("0::/", {"cpu.max": "100000 100000"}, 1),  # in a container
        ("0::/../c", {"cpu.max": "200000 100000"}, 2),  # and in one beside it
        ("0::/a/b", {"a/b/cpu.max": "1600000 100000"}, 8),  # more than there are
        ("0::/a/b", {"a/b/cpu.max": "max 100000"}, 8),
        ("0::/a/b", {"a/b/cpu.max": "what?"}, 8),
        ("0::/a/b", {"a/b/cpu.max": "100000 0"}, 8),
        ("0::/a/b", {}, 8),
        ("no cgroup", {}, 8),
        ("1:cpuset:/\n4:cpu,cpuacct:/d/e\n0::/", {f"cpu/d/e/{V1[0]}": "150000", f"cpu/d/e/{V1[1]}": "100000"}, 2),
        ("4:cpu:/d/e", {f"cpu/d/{V1[0]}": "50000\n", f"cpu/d/{V1[1]}": "100000\n"}, 1),
        ("4:cpu:/docker/f", {f"cpu/{V1[0]}": "300000", f"cpu/{V1[1]}": "100000"}, 3),  # as the host calls it
        ("4:cpu:/d", {f"cpu/d/{V1[0]}": "-1", f"cpu/d/{V1[1]}": "100000"}, 8),
    ],
)
def test_a_quota_of_cpu_time_is_so_many_cores_rounded_up(tmp_path, monkeypatch, own, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "own").write_text(f"{own}\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(memory, "_siblings", str)
    assert memory.usable_cores() == cores


def test_cores_are_physical_ones_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(memory, "_quota_cores", lambda: float("inf"))
    assert 1 <= memory.usable_cores() <= len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(memory, "_siblings", lambda cpu: f"{cpu % 2},{cpu % 2 + 2}")
    assert memory.usable_cores() == 2
    monkeypatch.undo()
    assert memory._siblings(10_000) == "10000"


def test_without_a_driver_nothing_is_known_of_gpus(no_driver):
    assert memory.gpu_memory(0) is None
    assert memory.process_vram_bytes() is None


def test_a_gpu_is_read_through_its_driver(driver, monkeypatch):
    assert memory.gpu_memory(0) == memory.GpuMemory(total_bytes=24_000, free_bytes=20_000)
    assert memory.process_vram_bytes() == 10_000
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    memory.gpu_memory(0)
    assert driver.asked == 3
    memory.gpu_memory(1)
    assert driver.asked == 1


def test_a_driver_that_fails_is_as_good_as_none(driver):
    driver.fails = True
    assert memory.gpu_memory(0) is None
    assert memory.process_vram_bytes() is None


def test_the_module_is_optional(monkeypatch):
    import sys

    memory._nvml.cache_clear()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert memory._nvml() is None
    memory._nvml.cache_clear()


def test_a_large_buffer_costs_no_page_faults_the_second_time():
    program = textwrap.dedent(
        """
        import resource, numpy as np
        from sttd.engine import memory

        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            np.ones(64 * 1024**2, np.uint8)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        faults()
        mapped = faults()
        assert memory.keep_heap()
        faults()
        print(mapped, faults())
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    mapped, kept = map(int, done.stdout.split())
    assert kept < 100 < mapped
