"""``opyard`` as a process: streams, exit codes, signals, pipes, terminals, and plugins that are broken."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from environments import TOY, install, run_python

WAITING = """
import time
import click
from opyard import hookimpl

@click.command()
def wait():
    click.echo("waiting")
    time.sleep(60)

@click.command()
def complain():
    import warnings
    warnings.warn("one thing\\n   and another", stacklevel=1)
    click.echo("{}")

@hookimpl
def opyard_commands(group):
    group.add_command(wait)
    group.add_command(complain)
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of fake distributions: one with two commands, one that fails to load."""
    folder = tmp_path / "site"
    install(folder, "opyard-patience", {"patience": "patience"}, {"patience": WAITING})
    install(folder, "opyard-broken", {"broken": "broken"}, {"broken": "raise ImportError('no libfoo.so')"})
    return folder


def code(*arguments: str) -> str:
    return f"from opyard.cli import main; main({list(arguments)!r})"


def opyard(site: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    defaults = {"OPYARD_CACHE_DIR": str(site.parent / "cache"), "OPYARD_PLUGINS": "broken,patience"}
    return run_python(code(*arguments), site, **{**defaults, **variables})


def environment(site: Path) -> dict[str, str]:
    found = {key: value for key, value in os.environ.items() if not key.startswith(("OPYARD_", "COLUMNS"))}
    cache = str(site.parent / "cache")
    return {**found, "PYTHONPATH": str(site), "OPYARD_CACHE_DIR": cache, "OPYARD_PLUGINS": "broken,patience"}


def test_a_broken_plugin_is_shown_and_the_doctor_fails(site: Path):
    done = opyard(site, "doctor", "--json")
    assert done.returncode == 1
    data = json.loads(done.stdout)
    assert data["healthy"] is False
    broken = next(check for check in data["checks"] if check["subject"] == "plugin broken")
    assert broken["state"] == "failed"
    assert "no libfoo.so" in broken["detail"]
    table = opyard(site, "doctor")
    assert table.returncode == 1
    assert table.stdout.endswith("\nBroken: plugin broken.\n")
    listed = opyard(site, "plugins")
    assert listed.returncode == 0
    assert "no libfoo.so" in listed.stdout


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("return ['driver 7, of 2031']", "driver 7, of 2031"),
        ("raise OSError('no driver')", "its notes cannot be read: OSError: no driver"),
    ],
)
def test_the_doctor_shows_what_a_backend_says(body: str, sentence: str, tmp_path: Path):
    notes = f"class ToyBackend:\n    def notes(self):\n        {body}"
    folder = tmp_path / "site"
    install(
        folder, "opyard-toy", {"toy": "toy_plugin"}, {"toy_plugin": TOY.replace("class ToyBackend:", notes)}
    )
    done = opyard(folder, "doctor", "--json", OPYARD_PLUGINS="toy")
    assert done.returncode == 0, done.stderr
    checks = [check for check in json.loads(done.stdout)["checks"] if check["subject"] == "backend toy"]
    assert [(check["state"], check["detail"]) for check in checks] == [("ok", "toy:0"), ("note", sentence)]


def test_a_strict_user_gets_the_failure_at_once(site: Path):
    done = opyard(site, "ops", OPYARD_STRICT="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: plugin 'broken' of opyard-broken failed: ")
    assert "Traceback" not in done.stderr
    for command in ("plugins", "doctor"):
        shown = opyard(site, command, OPYARD_STRICT="1")
        assert shown.returncode == int(command == "doctor") and "no libfoo.so" in shown.stdout
    helped = opyard(site, "--help", OPYARD_STRICT="1")
    assert helped.returncode == 0 and "doctor" in helped.stdout


def test_a_missing_command_of_a_broken_plugin_is_explained(site: Path):
    install(site, "opyard-demo", {"demo": "nodemo"}, {"nodemo": "raise ImportError('no weights')"})
    done = opyard(site, "demo", OPYARD_PLUGINS="demo")
    assert done.returncode == 2
    assert "the command 'demo' is not here: opyard-demo is installed, and failed: " in done.stderr
    assert "no weights" in done.stderr


def test_warnings_are_one_line_on_stderr_and_stdout_stays_json(site: Path):
    done = opyard(site, "complain")
    assert (done.returncode, done.stdout) == (0, "{}\n")
    assert done.stderr == "warning: one thing and another\n"
    done = opyard(site, "plugins", "--json", OPYARD_BLOCK="nobody")
    assert json.loads(done.stdout)["settings"]
    assert done.stderr.startswith("warning: opyard settings: OPYARD_BLOCK names 'nobody'")
    assert done.stderr.count("\n") == 1


def test_retry_tries_the_plugin_where_a_crash_does_no_harm(site: Path):
    install(site, "opyard-crash", {"crash": "crash"}, {"crash": "import os; os.kill(os.getpid(), 9)"})
    assert opyard(site, "ops", OPYARD_PLUGINS="crash").returncode == -signal.SIGKILL
    listed = opyard(site, "plugins", "--json", OPYARD_PLUGINS="crash")
    assert [row["state"] for row in json.loads(listed.stdout)["plugins"] if row["name"] == "crash"] == [
        "quarantined"
    ]
    assert opyard(site, "doctor", OPYARD_PLUGINS="crash").returncode == 1
    again = opyard(site, "plugins", "--retry", "crash", OPYARD_PLUGINS="crash")
    assert again.returncode == 0 and "the last trial was ended by SIGKILL" in again.stdout
    (site / "crash.py").write_text("def repaired(): ...")
    retried = opyard(site, "plugins", "--retry", "crash", "--json", OPYARD_PLUGINS="crash")
    assert [row["state"] for row in json.loads(retried.stdout)["plugins"] if row["name"] == "crash"] == ["ok"]


def test_an_interrupt_ends_with_130(site: Path):
    # a shell that starts the tests in the background has the signal ignored, and children inherit that
    program = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {code('wait')}"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program],
        env=environment(site),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip() == "interrupted"


@pytest.mark.parametrize("arguments", [["ops"], ["ops", "--json"], ["--help"]])
def test_a_reader_that_has_gone_is_no_error(site: Path, arguments: list[str]):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", code(*arguments)],
        env=environment(site),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_shell_gets_completions(site: Path):
    asked = {"_OPYARD_COMPLETE": "bash_complete", "COMP_WORDS": "opyard de", "COMP_CWORD": "1"}
    assert opyard(site, **asked).stdout == "plain,devices\n"


def in_terminal(site: Path, width: int, *arguments: str, **variables: str) -> str:
    """What the command shows in a terminal of this width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    variables = {"TERM": "xterm-256color", **variables}
    clean = {k: v for k, v in environment(site).items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    with subprocess.Popen(
        [sys.executable, "-c", code(*arguments)],
        env={**clean, **variables},
        stdout=slave,
        stderr=slave,
        stdin=slave,
    ) as process:
        os.close(slave)
        chunks = []
        try:
            while chunk := os.read(master, 65536):
                chunks.append(chunk)
        except OSError:  # Linux says so when the other side has closed
            pass
        process.wait(timeout=60)
    os.close(master)
    return b"".join(chunks).decode()


def test_in_a_terminal_lines_fit_and_states_are_coloured(site: Path):
    shown = in_terminal(site, 80, "plugins", NO_COLOR="")
    assert "\x1b[31mfailed\x1b[0m" in shown
    plain = in_terminal(site, 80, "ops", NO_COLOR="1", TERM="dumb")
    assert "\x1b" not in plain
    assert max(map(len, plain.splitlines())) <= 80
    assert "softmax" in plain
    assert "\x1b[3" not in in_terminal(site, 80, "plugins", NO_COLOR="1")
