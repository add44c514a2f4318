"""Memory in huge pages: when it is asked for, and that a command is the same command with it."""

import json
import os
import subprocess
import sys

import pytest

from colorize_jax import huge_pages

ON_REQUEST = "always [madvise] never\n"


@pytest.mark.parametrize(
    "said, library, kernel, wanted",
    [
        ({}, "glibc 2.36", ON_REQUEST, "glibc.malloc.hugetlb=1"),
        ({}, "glibc 3.0", ON_REQUEST, "glibc.malloc.hugetlb=1"),
        ({}, "glibc 2.34", ON_REQUEST, None),
        ({}, "", ON_REQUEST, None),
        ({}, "glibc 2.36", "[always] madvise never\n", None),
        ({}, "glibc 2.36", "always madvise [never]\n", None),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, "glibc 2.36", ON_REQUEST, None),
        (
            {"GLIBC_TUNABLES": "glibc.malloc.check=1"},
            "glibc 2.36",
            ON_REQUEST,
            "glibc.malloc.check=1:glibc.malloc.hugetlb=1",
        ),
    ],
)
def test_huge_pages_are_asked_for_where_linux_gives_them_on_request(said, library, kernel, wanted):
    assert huge_pages.setting(said, library, kernel) == wanted


def _run_as_a_command(folder, words, environment):
    """What a command below a package that imports ours sees of itself, and its process's number."""
    package = folder / "command"
    package.mkdir()
    package.joinpath("__init__.py").write_text("import colorize_jax\n")
    package.joinpath("__main__.py").write_text(
        "import json, os, sys\n"
        "print(json.dumps([sys.argv[1:], sys.stdin.read(), sys.flags.optimize, os.getpid(),\n"
        "                  os.environ.get('GLIBC_TUNABLES')]))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-O", "-m", "command", *words], cwd=folder, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    return json.loads(process.communicate("from a pipe")[0]), process.pid


@pytest.mark.parametrize("said", [None, "glibc.malloc.hugetlb=0"])
def test_a_command_keeps_its_words_its_input_and_its_number(tmp_path, said):
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if said:
        environment["GLIBC_TUNABLES"] = said
    words = ["--a=b c", "", "ü"]
    found, number = _run_as_a_command(tmp_path, words, environment)
    try:
        kernel = huge_pages._KERNEL.read_text()
        expected = huge_pages.setting(environment, os.confstr("CS_GNU_LIBC_VERSION"), kernel)
    except (AttributeError, OSError, ValueError):
        expected = None
    assert found == [words, "from a pipe", 1, number, expected or said]
