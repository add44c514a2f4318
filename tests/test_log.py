"""A log that cannot be written drops lines, but does not end the run."""

import os
import subprocess
import sys

import pytest
import saved

from colorize_jax import log


@pytest.fixture
def pipe():
    """A text stream into a pipe, and the reading end."""
    read, write = os.pipe()
    with open(write, "w") as stream:
        yield stream, read
        os.close(read)


def test_lines_without_a_reader_are_lost_and_counted(pipe):
    stream, read = pipe
    written = log.Log(stream)
    print("before", file=written)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, read)  # Now there is no reader.
    os.close(null)
    for _ in range(3):
        print("lost", file=written, flush=True)
    assert written.newly_lost() == 3 and written.newly_lost() == 0


def test_a_terminal_that_is_gone_takes_nothing_and_ends_nothing():
    terminal, program = os.openpty()
    with open(program, "w") as stream:
        written = log.Log(stream)
        print("before", file=written)
        os.close(terminal)
        print("lost", file=written)
        assert written.newly_lost() == 1 and not written.isatty()


def test_a_reader_that_does_not_read_does_not_block_the_run(pipe, monkeypatch):
    monkeypatch.setattr(log, "PATIENCE_SECONDS", 0.05)
    stream, read = pipe
    written = log.Log(stream)
    for _ in range(100):
        print("x" * 1000, file=written)
    lost = written.newly_lost()
    assert 30 < lost < 60  # A pipe holds 64 KiB.
    os.read(read, 1 << 20)
    print("it reads again", file=written)
    said = os.read(read, 1 << 20).decode()
    assert f"[{lost} lines are missing here: nobody reads what is written]" in said
    assert said.endswith("it reads again\n") and written.newly_lost() == 0


def test_a_full_disk_loses_lines_and_reports_it_when_there_is_room(tmp_path):
    full, room = open("/dev/full", "w"), open(tmp_path / "log", "w")  # noqa: SIM115
    with full, room:
        written = log.Log(full)
        for _ in range(2):
            print("lost", file=written)
        os.dup2(room.fileno(), full.fileno())
        print("found", file=written)
    assert (tmp_path / "log").read_text() == (
        "\n[2 lines are missing here: No space left on device]\nfound\n"
    )


CLOSED = """
import os, sys
sys.path.insert(0, {root!r})
from colorize_jax import log
log.occupy_standard_streams()
with log.surviving_output():
    print("lost", file=sys.stderr)
    with open(sys.argv[1], "w") as file:
        os.write(2, b"what a library says")
        file.write(f"{{log.newly_lost()}} {{sys.stderr.isatty()}}")
"""


def test_standard_error_that_was_closed_at_the_start_is_no_file_of_ours(tmp_path):
    script = CLOSED.format(root=str(saved.ROOT))
    command = [sys.executable, "-c", script, str(tmp_path / "file")]
    subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], check=True)
    assert (tmp_path / "file").read_text() == "1 False"
