"""`salmask watch`: the page of a sweep in progress, for this machine alone, with its jobs' progress and cost."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace

import pytest
from run_samples import begun, finished, of_method
from typer.testing import CliRunner
from usage_samples import used, written

from baselines import resolve
from repro.bench.throughput import StepMeasurement, kind_of, record
from repro.cli import app
from repro.errors import UserError
from repro.quantities import duration_text
from repro.runs.folder import RunFolder
from repro.settings.reading import build as build_run
from results.collection.collect import collect_runs
from results.collection.runs import find_runs
from results.report.page import build
from results.report.server import PageServer, _Handler
from slurm.monitoring.progress import progress
from slurm.monitoring.spending import spendings
from slurm.monitoring.states import State
from slurm.profiles.profile import Cluster, Resources
from slurm.status_commands import look
from slurm.sweep_folder.ledger import Ledger, Submission
from slurm.targets import SweepTarget


@contextmanager
def serving(server: PageServer) -> Iterator[PageServer]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def ask(server: PageServer, path: str, method: str = "GET", host: str = "") -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{server.server_port}"})
    answer = connection.getresponse()
    content = answer.read().decode()
    connection.close()
    return answer.status, content, dict(answer.getheaders())


def test_the_page_is_served_here_alone_and_by_its_token() -> None:
    pages = iter(range(100))
    with serving(PageServer(lambda: f"page {next(pages)}", every=60)) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert len(server.path) > 30
        status, content, headers = ask(server, server.path)
        assert (status, content) == (200, "page 0")
        assert ask(server, server.path)[1] == "page 0"  # made at intervals, not for each request
        assert ask(server, server.path, host=f"localhost:{server.server_port}")[0] == 200
        assert (headers["Cache-Control"], headers["Referrer-Policy"]) == ("no-store", "no-referrer")
        assert ask(server, server.path, "HEAD")[:2] == (200, "")
        for path in ("/", "/x/", server.path[:-2] + "/", server.path + "x", server.path + "../"):
            assert ask(server, path)[0] == 404, path
        for host in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1", "127.0.0.1:1"):
            assert ask(server, server.path, host=host)[0] == 421, host
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            assert ask(server, server.path, method)[0] == 501, method
        with pytest.raises(UserError, match=f"cannot listen on port {server.server_port}: .*; mend: another --port"):
            PageServer(lambda: "", port=server.server_port)
    with serving(PageServer(lambda: f"page {next(pages)}", every=0)) as other:
        assert other.path != server.path
        assert [ask(other, other.path)[1] for _ in range(2)] == ["page 1", "page 2"]


def test_a_reader_who_leaves_is_no_traceback_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    asked, gone = threading.Event(), threading.Event()

    def page() -> str:
        asked.set()
        gone.wait(10)
        return "x" * 10_000_000

    server = PageServer(page)
    server.daemon_threads = False  # closing waits for the answer
    with serving(server):
        reader = socket.create_connection(("127.0.0.1", server.server_port))
        reader.sendall(f"GET {server.path} HTTP/1.0\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n".encode())
        assert asked.wait(10)
        reader.close()
        gone.set()
    assert capsys.readouterr().err == ""


def test_a_page_that_cannot_be_made_says_why_and_the_next_request_tries_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers: Iterator[Exception | str] = iter(
        [UserError("cannot read <runs>", mend="put it back"), "page", RuntimeError("a bug")]
    )

    def page() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with serving(PageServer(page, every=0)) as server:
        status, content, _ = ask(server, server.path)
        assert status == 500
        assert "cannot read &lt;runs&gt;; mend: put it back" in content
        assert ask(server, server.path)[:2] == (200, "page")
        assert capsys.readouterr().err == ""
        with pytest.raises(http.client.RemoteDisconnected):
            ask(server, server.path)
    assert "RuntimeError: a bug" in capsys.readouterr().err  # of a bug the terminal shows all


def test_a_request_of_another_machine_is_refused_before_anything_else() -> None:
    handler = SimpleNamespace(client_address=("10.0.0.7", 4711))
    assert _Handler._refusal(handler) is HTTPStatus.FORBIDDEN  # type: ignore[arg-type]  # no more is looked at


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep with one run that is done, one that trains, and one whose pace is unknown yet."""
    done = finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0})
    done.backbone.write_bytes(b"weights")
    written(done.path, "pretrain", [used(seconds=60.0, gpu_memory=1)])
    written(done.path, "linear", [used(seconds=630.0)])
    running = begun(tmp_path / "full", build_run([of_method("mocov2"), {"seed": 1}]))
    running.metrics.write_text(json.dumps({"step": 10, "loss": 7.0, "time": 36.0}) + "\n")
    written(running.path, "pretrain", [used(seconds=300.0, gpu_memory=1), used(seconds=90.0, gpu_memory=1)])
    begun(tmp_path / "full", build_run([of_method("simclr"), {"seed": 0}]))
    return tmp_path / "full"


def test_time_left_and_hours_follow_from_the_paces_and_from_what_was_used(sweep: Path) -> None:
    (table,), queue = look([SweepTarget(sweep)])
    state = progress(sweep, table, queue, every=60)
    assert state.live
    assert state.summary.startswith("2 done, 2 running; at least 54 min left, 2 at a time.")  # 90 steps of 36 s
    # A minute, and 90 steps of 36 s after two attempts; the probe found no GPU.
    spent, left = (60 + 300 + 90) / 3600, 3240 / 3600
    assert state.hours == (
        f"{spent:.2f} of {spent + left:.2f} GPU-hours and 0.17 of 0.17 hours without a GPU spent, "
        "without 1 job whose cost is unknown."
    )
    assert sum(job.hours.of_gpus for job in spendings(Ledger(sweep), table)) == spent  # as `salmask status --cost` says
    rows = {(row.run, row.task): row for row in state.jobs}
    assert rows["mocov2 s1", "pretrain"].left == "54 min"
    assert (rows["mocov2 s1", "pretrain"].step, rows["mocov2 s1", "pretrain"].steps) == (10, 100)
    assert rows["mocov2 s0", "linear"].note.startswith("top1 60.00")
    assert [row.state for row in state.jobs] == ["running", "running", "done", "done"]


def test_a_task_without_its_pretraining_is_told_and_not_planned(tmp_path: Path) -> None:
    """For example, weights from elsewhere, whose pretraining is not here."""
    done = finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0})
    written(done.path, "linear", [used(seconds=630.0)])
    (table,), queue = look([SweepTarget(tmp_path / "full")])
    alone = [row for row in table if row.task == "linear"]
    state = progress(tmp_path / "full", alone, queue, every=0.2)
    assert (state.summary, state.refresh_s, state.live) == ("1 done.", 1, False)
    assert [(row.step, row.steps, row.left, row.speed) for row in state.jobs] == [(0, 0, "", "")]


def test_a_sweep_whose_costs_are_known_says_nothing_of_unknown_ones(sweep: Path) -> None:
    (table,), queue = look([SweepTarget(sweep)])
    known = [row for row in table if row.run != "simclr s0"]
    state = progress(sweep, known, queue, every=60)
    assert state.summary == "2 done, 1 running; 54 min left, 1 at a time."
    assert state.hours.endswith("hours without a GPU spent.")
    empty = progress(sweep, [], queue, every=60)
    assert (empty.summary, empty.hours, empty.jobs) == ("no job yet.", "0.00 of 0.00 GPU-hours spent.", ())


@pytest.mark.parametrize(("gone", "unit"), [(False, "hours without a GPU"), (True, "GPU-hours")])
def test_what_is_left_holds_the_gpus_of_the_newest_profile(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool, unit: str
) -> None:
    """If the profile was removed since the launch, one GPU is assumed."""
    (table,), queue = look([SweepTarget(sweep)])
    (waiting,) = [row for row in table if row.run == "simclr s0"]
    run = RunFolder(sweep / waiting.folder).load()
    record(tmp_path / "steps.jsonl", [StepMeasurement(kind_of(run), "simclr", 1000.0, 1.0, 1, 1, "a card")])
    monkeypatch.setattr("slurm.monitoring.progress.record_file", lambda: tmp_path / "steps.jsonl")

    def named(name: str) -> Cluster:
        if gone:
            raise UserError(f"unknown cluster '{name}'", mend="another")
        return Cluster(name, resources=Resources(gpus=int(name == "older")))

    monkeypatch.setattr("slurm.monitoring.progress.load_named", named)
    for cluster, seed in (("older", 1), ("newest", 2)):
        entry = Submission(f"s-{cluster}", "slurm", cluster, run.id, f"simclr/s{seed}-x", "pretrain")
        Ledger(sweep).intend([entry])
    state = progress(sweep, [waiting], queue, every=60)
    hours = run.optimization.epochs * 126_689 / 1000 / 3600
    assert state.hours == f"0.00 of {hours:.2f} {unit} spent."
    # One at a time, the second comes after the one that runs.
    both = [row for row in table if row.run == "mocov2 s1"] + [replace(waiting, state=State.queued)]
    left = duration_text(3240 + 3600 * hours)
    assert progress(sweep, both, queue, every=60).summary == f"1 running, 1 queued; {left} left, 1 at a time."


def test_the_page_shows_progress_before_anything_else(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("results.report.page.PLOTS", {})
    (table,), queue = look([SweepTarget(sweep)])
    runs = find_runs([sweep], resolve)
    text = build(runs, collect_runs(runs), progress=progress(sweep, table, queue, every=60))
    assert 'data-refresh="60"' in text
    assert '<progress max="100" value="10">' in text
    places = [text.index(mark) for mark in ('id="verdict"', 'id="progress"', 'id="tables"')]
    assert places == sorted(places)
    assert 'id="progress"' not in build(runs, collect_runs(runs))


def test_the_page_says_what_jobs_warn_of(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("results.report.page.PLOTS", {})
    (table,), queue = look([SweepTarget(sweep)])
    assert progress(sweep, table, queue, every=60).warnings == ()
    table = [replace(row, warnings=("steps <wait>",)) for row in table]
    state = progress(sweep, table, queue, every=60)
    assert state.warnings == ("pretrain mocov2 s1 and 1 more warned: steps <wait>",)  # of those that are not done
    runs = find_runs([sweep], resolve)
    text = build(runs, collect_runs(runs), progress=state)
    assert text.count('<p class="warnings">pretrain mocov2 s1 and 1 more warned: steps &lt;wait&gt;</p>') == 1


def test_without_a_port_the_file_is_written_until_nothing_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("results.report.page.PLOTS", {})
    folder = finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0})
    folder.backbone.write_bytes(b"weights")
    begun_folder = begun(tmp_path / "full", build_run([of_method("mocov2"), {"seed": 1}]))
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        RunFolder(begun_folder.path).set_status("failed", error="out of memory")

    monkeypatch.setattr("repro.watch.time.sleep", wait)
    out, before = tmp_path / "page.html", sorted(folder.path.rglob("*"))
    outcome = CliRunner().invoke(app, ["watch", str(tmp_path / "full"), "--out", str(out), "--every", "7"])
    assert outcome.exit_code == 0, outcome.output
    assert waits == [7.0]
    assert [line.partition(": ")[2] for line in outcome.output.splitlines()] == [
        "2 done, 1 running.",
        "2 done, 1 failed.",
    ]
    assert "out of memory" in out.read_text(encoding="utf-8")
    assert sorted(folder.path.rglob("*")) == before  # watching leaves nothing behind
