"""How Ctrl-C, TERM and a closed terminal end a command, from the first moment of its process."""

import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from places import ROOT

SLOW_IMPORT = """
import signal, sys, time
class Slow:
    def find_spec(self, name, *_):
        if name == "repro.cli":
            print("importing", flush=True)
            time.sleep(SECONDS)
sys.meta_path.insert(0, Slow())
from repro.entry import main
SETTING
main()
"""
"""A process whose imports take a while, as on a busy file system."""


HEARD = "signal.signal(signal.SIGINT, signal.default_int_handler)"
"""A test that a script runs in the background inherits that Ctrl-C is ignored."""


def begun(seconds: float, setting: str = HEARD, *words: str) -> subprocess.Popen[bytes]:
    code = SLOW_IMPORT.replace("SECONDS", str(seconds)).replace("SETTING", setting)
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"importing\n"
    return process


def test_ctrl_c_while_the_command_line_is_imported_is_one_line() -> None:
    """It used to end in a traceback through typer's modules."""
    with begun(60) as process:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, b"salmask: interrupted\n")


def test_where_ctrl_c_is_ignored_it_stays_so() -> None:
    """In the background of a script, Ctrl-C is not meant for the command."""
    with begun(0.3, "signal.signal(signal.SIGINT, signal.SIG_IGN)", "--version") as process:
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, b"")
    assert out.startswith(b"salmask ")


def test_the_installed_command_begins_there_and_imports_nothing_before() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"] == {"salmask": "repro.entry:main"}
    code = "import sys; import repro.entry; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, check=True, text=True, cwd=ROOT)
    named = set(ended.stdout.split())
    assert {name for name in named if name.startswith("repro")} == {"repro", "repro.entry"}
    assert {name.partition(".")[0] for name in named} <= {"repro", "__main__", *sys.stdlib_module_names}


WRITING = """
import sys, time
from pathlib import Path
from repro.ending import carry_out
from repro.filesystem.files import write_atomically

def half_written(file):
    file.write(b"half")
    print("writing", flush=True)
    time.sleep(60)

def command(**_):
    write_atomically(Path(sys.argv[1]), half_written)

carry_out(command, settings_named=lambda _: (), resumable=())
"""
"""A process whose command takes a while to write a file."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_asked_to_end_leaves_nothing_half_written(number: signal.Signals, tmp_path: Path) -> None:
    """On TERM or a closed terminal, `salmask pack` used to leave a hidden file of all that it had written."""
    code = f"import signal\nsignal.signal({number.value}, signal.SIG_DFL)\n{HEARD}\n{WRITING}"
    call = [sys.executable, "-c", code, str(tmp_path / "artifact.zip")]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    what = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert (process.returncode, errors.decode(), list(tmp_path.iterdir())) == (128 + number, f"salmask: {what}\n", [])
