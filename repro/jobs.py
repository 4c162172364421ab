"""What commands and jobs carry out: a task on a run's folder, or a sweep's tables.

Besides the command line, this is the only module that imports every room. The launcher needs no torch, but these
functions do, so it knows them by name (`PROGRAM`).
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from repro.command_line.console import show_log
from repro.command_line.progress import OPENING
from repro.command_line.terminal import Console, is_first_process
from repro.errors import interruption
from repro.filesystem.paths import require_utf8
from repro.processes.garbage import imports_frozen
from repro.processes.workers import deaths_told
from repro.runs.folder import RunFolder
from repro.runs.resumption import goes_on
from repro.runs.status import PRETRAIN
from repro.runs.stopping import STOP, heard_everywhere
from repro.runs.usage_meter import UsageMeter, usage_recorded
from repro.settings.run import Run
from slurm.jobs.program import Program
from slurm.sweep_folder.ledger import REPORT

if TYPE_CHECKING:
    import torch

    from repro.bench.throughput import StepMeasurement

PROGRAM = Program(
    task="repro.jobs:carry_out",
    report="repro.jobs:render_report",
    examine="repro.doctor.node:examine_node",
    measure="repro.jobs:measure_step",
)
REPORT_WAIT_SECONDS = 60.0
"""How long a report waits while another process makes a report of the same sweep."""


def carry_out(
    run: Run, path: Path, task: str, root: Path | None = None, *, wait: float = 0.0, again: bool = False
) -> None:
    """Carries out a task on a run's folder, as a command, a job or a rank of several.

    Args:
        run: The experiment.
        path: Its folder.
        task: `pretrain`, or an evaluation: `TASK` or `TASK@DATASET`.
        root: Root folder of the evaluation's data set; None: looked up.
        wait: Seconds to wait while another process carries out the same task; zero for a command.
        again: Whether to repeat an evaluation whose rows have no predictions.

    Raises:
        UserError: Bad input, the folder's name is not UTF-8, or another process holds the folder.
    """
    require_utf8(path)
    meter = UsageMeter()
    show_log()
    STOP.install()
    with heard_everywhere(), OPENING.shown(shown=is_first_process()):
        OPENING.say("importing torch")
        _carry_out(run, RunFolder(path), task, root, meter, wait=wait, again=again)


def _carry_out(
    run: Run, folder: RunFolder, task: str, root: Path | None, meter: UsageMeter, *, wait: float, again: bool
) -> None:
    """Carries out a task, once signals are handled and the opening is shown."""
    # Imported here: the launcher and `salmask status` need the names above, and no torch. Only `_prepare` imports what
    # a pretraining or an evaluation needs, and never both: either takes as long as torch itself.
    with imports_frozen():
        from repro.processes.distributed import initialise, rank, world_size

    device = initialise(run.machine.device)
    # A command is refused before its folder is touched, and if its results exist, it reads them and writes nothing. A
    # job (`wait` > 0) has its folder already, and nobody sees its terminal: even a refusal is recorded in its status.
    prepared = None
    if not wait and (prepared := _prepare(run, folder, task, device, root, again=again)) is None:
        return
    # Only rank 0 holds the folder and records the status; each rank records its own usage.
    with (
        folder.attempt(task, wait=wait) if rank() == 0 else nullcontext(),
        usage_recorded(folder.path, task, meter, rank(), world_size()),
        deaths_told(),
        deaths_told(),  # catches a death that is reported while the inner one ends
    ):
        work = prepared or _prepare(run, folder, task, device, root, again=again)
        if work is not None:
            _call(work, folder, task)


def _call(work: Callable[[], object], folder: RunFolder, task: str) -> None:
    """Calls the work of a task; if it is interrupted, keeps what the command's last line is to say (`STOP`)."""
    try:
        work()
    except BaseException as error:
        if interruption(error):
            STOP.afterwards = goes_on(folder, task)
        raise


def _prepare(
    run: Run, folder: RunFolder, task: str, device: "torch.device", root: Path | None, *, again: bool
) -> Callable[[], object] | None:
    """Returns the work of a task, after all checks that are possible before it begins; None if it is done already.

    Raises:
        UserError: Bad input; nothing is written.
    """
    OPENING.say(f"{task}: importing what it needs")
    if task == PRETRAIN:
        with imports_frozen():
            from baselines import build_learner
            from repro.training.pretraining import prepare_pretraining

        return prepare_pretraining(run, folder, device, build_learner)
    with imports_frozen():
        from downstream.tasks import prepare_evaluation

    OPENING.say(f"{task}: reading the backbone")
    return prepare_evaluation(run, folder, task, device, root, again=again)


def render_report(place: Path, tables: Sequence[str]) -> None:
    """Renders a sweep's tables from the results that exist, as its last job.

    Args:
        place: The sweep's folder.
        tables: Names of the tables.

    Raises:
        UserError: A table is unknown, its results exclude each other, or another process holds the folder.
    """
    from baselines import resolve
    from results.tables.commands import show_tables

    meter = UsageMeter()
    with RunFolder(place).attempt(REPORT, wait=REPORT_WAIT_SECONDS), usage_recorded(place, REPORT, meter):
        show_tables(tables, place, Console(width=160), resolve)


def measure_step(run: Run, *, warm_up: int, steps: int) -> "StepMeasurement":
    """Times a row's steps on this machine.

    Args:
        run: The row, with its settings.
        warm_up: Steps before those that are timed.
        steps: Steps that are timed.

    Raises:
        UserError: Data or settings do not fit.
    """
    from baselines import build_learner
    from repro.bench.step import measure

    return measure(run, build_learner, warm_up=warm_up, steps=steps)
