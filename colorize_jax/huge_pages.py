"""Starts a command with memory in huge pages: on CPUs a step takes and returns gigabytes."""

from collections.abc import Mapping
import os
import pathlib
import re
import sys

_NAME = "GLIBC_TUNABLES"
_KERNEL = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def setting(environment: Mapping[str, str], library: str, kernel: str) -> str | None:
    """The value of GLIBC_TUNABLES that asks for huge pages, or None where nothing is to be asked.

    Args:
        environment: the environment. A choice of huge pages in it stays, with 0 as with 1.
        library: the C library, such as "glibc 2.36"; it can ask since 2.35.
        kernel: how Linux gives them: "always [madvise] never" is on request.
    """
    said = environment.get(_NAME, "")
    version = re.fullmatch(r"glibc (\d+)\.(\d+).*", library)
    able = version and tuple(map(int, version.groups())) >= (2, 35)
    if not able or "[madvise]" not in kernel or "glibc.malloc.hugetlb" in said:
        return None
    return ":".join(filter(None, (said, "glibc.malloc.hugetlb=1")))


def start_again() -> None:
    """Replaces this process by the same command with huge pages, if it has none and can have them.

    The C library reads its settings only when a process starts. The process keeps its number.
    """
    try:
        library, kernel = os.confstr("CS_GNU_LIBC_VERSION") or "", _KERNEL.read_text()
        value = setting(os.environ, library, kernel)
        if value and sys.executable:
            os.execve(
                sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {_NAME: value}
            )
    except (AttributeError, OSError, ValueError):  # Another system: it decides for itself.
        return
