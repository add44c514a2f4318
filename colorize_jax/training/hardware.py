"""What a run was computed on, in words."""

import os
import platform
import re

import jax


def describe() -> str:
    """Such as "8 x NVIDIA H200" or "2 cores of AMD EPYC 9B14"."""
    devices = jax.devices()
    if devices[0].platform != "cpu":
        return f"{len(devices)} x {devices[0].device_kind}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = jax.process_count()
    there = f"{processes} x {cores}" if processes > 1 else f"{cores}"
    return f"{there} core{'' if cores == 1 else 's'} of {_processor()}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            found = re.search(r"^model name\s*:\s*(.+)$", lines.read(), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    name = found[1] if found else platform.processor() or platform.machine()
    return re.sub(r"\s*\d+-Core Processor$", "", name.strip())
