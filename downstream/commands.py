"""The commands that evaluate a backbone: `salmask eval`, and `salmask probe` as its short form.

torch is imported only when a command runs, so that `--help` answers at once.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from repro.command_line.console import AsJson, comma_list, completion, show_log
from repro.command_line.progress import OPENING, suggest
from repro.command_line.terminal import is_first_process, say, say_json
from repro.data.catalogue import DATASETS, find_dataset
from repro.errors import UserError, nearest
from repro.filesystem.presence import exists, is_folder
from repro.runs.evaluation import PROTOCOLS, Evaluation, is_accuracy, measured_text, task_and_dataset
from repro.runs.folder import RunFolder
from repro.runs.records import Result, read
from repro.runs.sweep_names import IMPORTED
from repro.settings import reading
from repro.settings.choices import InputFilter
from repro.settings.detection import DETECTION_TASKS
from repro.settings.reading import parse_overrides
from repro.settings.run import Run

CarryOut = Callable[..., None]
"""`carry_out(run, folder, name, root, *, again)` carries out evaluation `name`; `root` is its data set's, or None."""

TABLE1 = ("linear@imagenet100", "linear@caltech101", "linear@flowers102", "logistic@caltech101", "logistic@flowers102")
"""The evaluations of Table 1: each data set by the paper-like protocol, transfer data sets by the standard one, too."""

# Arguments and options of the commands below. They are defined here to keep help texts out of the commands' signatures.

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN] [KEY.SUB=VALUE]...",
        help="Folder of a finished run (none with --checkpoint), and settings, for example probe.epochs=20.",
    ),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]
ProbeSettings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Settings of the probe, for example probe.epochs=20."),
]
Tasks = Annotated[
    str,
    typer.Option(
        "--task",
        metavar="A,B",
        help=f"table1, or any of: {', '.join(PROTOCOLS)}; TASK@DATA.",
        autocompletion=completion(lambda: ("table1", *PROTOCOLS), several=True),
    ),
]
DatasetName = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATASET",
        help="Data set; default: the one that the run was pretrained on.",
        autocompletion=completion(lambda: DATASETS),
    ),
]
Roots = Annotated[
    list[str] | None,
    typer.Option("--root", metavar="DIR", help="Root of the data set; DATASET=DIR for one of several."),
]
Root = Annotated[str, typer.Option("--root", metavar="DIR", help="Root of the data set.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option("--checkpoint", metavar="FILE", help="Evaluate weights from elsewhere; `random`: untrained ones."),
]
Arch = Annotated[
    str, typer.Option(help="With --checkpoint: the network; default: what the file or its run names, else resnet50.")
]
Name = Annotated[str, typer.Option(help="With --checkpoint: its method's name in tables; default: the file's name.")]
Prefix = Annotated[str, typer.Option(help="With --checkpoint: prefix of the keys of the network to take.")]
HighPass = Annotated[
    bool, typer.Option("--high-pass", help="With --checkpoint: the weights were trained on high-passed images.")
]
Again = Annotated[
    bool, typer.Option("--again", help="Measure again what was recorded without predictions; old rows are kept.")
]
Out = Annotated[
    Path,
    typer.Option("--out", metavar="DIR", help="With --checkpoint: folder below which the run's own folder is made."),
]


def build(carry_out: CarryOut) -> typer.Typer:
    """Makes the commands.

    Args:
        carry_out: How an evaluation is carried out in this process.
    """
    app = typer.Typer(add_completion=False)
    _add_eval(app, carry_out)
    _add_probe(app, carry_out)
    return app


def _add_eval(app: typer.Typer, carry_out: CarryOut) -> None:
    """Adds `salmask eval`; its docstring is what `--help` shows."""

    @app.command("eval")
    def evaluate(
        words: Words = None,
        task: Tasks = "linear",
        data: DatasetName = "",
        root: Roots = None,
        checkpoint: Checkpoint = None,
        arch: Arch = "",
        name: Name = "",
        prefix: Prefix = "",
        high_pass: HighPass = False,
        out: Out = Path("runs", IMPORTED),
        again: Again = False,
        as_json: AsJson = False,
    ) -> None:
        """Evaluate a backbone by named, versioned protocols; recorded results are only read.

        linear: SGD on the frozen backbone, as the paper; logistic: L2 logistic regression; knn: nearest neighbours;
        finetune, semi-10, semi-1: the whole network with all, 10 % or 1 % of the labels.

        Example: salmask eval runs/table1/mocov2/s0-45df9c0eca --task logistic --data caltech101 --root /data/caltech101

        Example: salmask eval --checkpoint moco_v2_200ep.pth.tar --name moco-v2-official --task table1
        """
        if checkpoint is None:
            run, folder = _finished_run(words or [])
            roots = _roots(root or [], evaluations(task, data, run))
        else:
            settings = _settings_alone(words or [])
            # Wrong tasks and roots are found before the weights are copied.
            wanted = reading.build([settings])
            roots = _roots(root or [], evaluations(task, data, wanted))
            run, folder = _adopted(
                wanted,
                path=checkpoint,
                arch=arch,
                name=name,
                prefix=prefix,
                input_filter=InputFilter.high_pass if high_pass else InputFilter.none,
                settings=settings,
                out=out,
                roots=roots,
            )
        _evaluate_all(run, folder, roots, carry_out, again=again, as_json=as_json)


def _add_probe(app: typer.Typer, carry_out: CarryOut) -> None:
    """Adds `salmask probe`; its docstring is what `--help` shows."""

    @app.command()
    def probe(folder: RunPath, settings: ProbeSettings = None, root: Root = "", as_json: AsJson = False) -> None:
        """Evaluate a finished run by linear probing on its own data: short for `salmask eval RUN --task linear`.

        Example: salmask probe runs/table1/mocov2/s0-45df9c0eca --root /data/imagenet
        """
        run = with_settings(RunFolder(folder).load(), parse_overrides(settings or []))
        roots = _roots([root] if root else [], [Evaluation("linear", run.data.dataset)])
        _evaluate_all(run, RunFolder(folder), roots, carry_out, as_json=as_json)


def _finished_run(words: Sequence[str]) -> tuple[Run, RunFolder]:
    """Reads the run whose folder is the first word, with the settings of the other words, or raises a UserError."""
    # A folder's name may contain "=", so the word is a setting only if there is no such folder.
    if not words or ("=" in words[0] and not is_folder(Path(words[0]))):
        raise UserError("no run is named", mend="name its folder first, or weights with --checkpoint FILE")
    folder = RunFolder(Path(words[0]))
    return with_settings(folder.load(), parse_overrides(words[1:])), folder


def _adopted(
    wanted: Run, *, out: Path, roots: Mapping[Evaluation, Path | None], **options: Any
) -> tuple[Run, RunFolder]:
    """Adopts weights from elsewhere: rank 0 does this, and the other ranks wait for the folder.

    Args:
        wanted: A run with the given settings; `machine.device` is used.
        out: Folder of the sweep.
        roots: Root of each evaluation's data set; if one of the evaluations cannot begin, no folder is made.
        options: The other arguments of `downstream.adoption.adopt`.
    """
    show_log()
    with OPENING.shown(shown=is_first_process()):
        OPENING.say("importing torch")
        from downstream.adoption import adopt
        from downstream.tasks import check_tasks
        from repro.processes.distributed import await_file, decided_by_first, initialise

        initialise(wanted.machine.device)
    check = partial(check_tasks, roots=roots)
    run = decided_by_first(lambda: adopt(**options, out=out, check=check)[0])
    folder = RunFolder.of(run, out)
    await_file(folder.backbone)
    return run, folder


def _settings_alone(words: Sequence[str]) -> Mapping[str, object]:
    """Reads words that are all settings; raises a UserError if the first one is a run's folder instead."""
    if words and "=" not in words[0]:
        raise UserError(f"'{words[0]}': with --checkpoint no run can be named", mend="leave one of them out")
    return parse_overrides(words)


def with_settings(run: Run, overrides: Mapping[str, object]) -> Run:
    """Returns a run with other settings of its evaluations and of the machine.

    Args:
        run: The run as its folder has it.
        overrides: Nested settings.

    Raises:
        UserError: A setting would make it another run.
    """
    adjusted = reading.build([overrides], base=run)
    # Only settings that are no part of the id may change. The method's name is no part of it either, but must stay,
    # because tables know the run by it.
    if adjusted.id != run.id or adjusted.method != run.method:
        raise UserError(
            "only settings of machine and of evaluations (probe, logistic, knn, finetune, detection) can change here: "
            "a backbone keeps the run that made it",
            mend="leave the others out, or pretrain a run with them",
        )
    return adjusted


def evaluations(tasks: str, dataset: str, run: Run) -> list[Evaluation]:
    """Reads `--task` and `--data`.

    Args:
        tasks: Names separated by commas; `table1` stands for `TABLE1`.
        dataset: Data set of tasks that name none themselves; empty: the run's own.
        run: The run that is evaluated.

    Returns:
        The evaluations in the order of their names, each once.

    Raises:
        UserError: No task, an unknown task or data set, or `--data` given to tasks that name one themselves.
    """
    unique: dict[Evaluation, None] = {}  # a set that keeps the order
    for name in comma_list("--task", tasks) if tasks.strip(" ,") else ():
        if dataset and (name == "table1" or "@" in name):
            raise UserError(f"--task {name} names its data itself", mend="leave --data out")
        for full_name in TABLE1 if name == "table1" else (f"{name}@{dataset}" if dataset else name,):
            # Checked here and not left to `parse`, because only here `table1` is a possible name, too.
            if (word := task_and_dataset(full_name)[0]) not in PROTOCOLS:
                raise _unknown(word)
            evaluation = Evaluation.parse(full_name, run)
            find_dataset(evaluation.dataset)
            unique[evaluation] = None
    if not unique:
        raise UserError("no task is named", mend="--task linear")
    return list(unique)


def _unknown(task: str) -> UserError:
    """Returns what a task without a protocol is refused with: it is a misspelt one, or one that was added by halves."""
    from downstream.tasks import TASKS

    if task in TASKS:
        what = f"TASKS (downstream/tasks.py) has the task {task}, and PROTOCOLS (repro/runs/evaluation.py) has not"
        return UserError(what, mend="add it there")
    return UserError(f"unknown task '{task}'", mend=nearest(task, ("table1", *PROTOCOLS)))


def _roots(options: Sequence[str], evaluations: Sequence[Evaluation]) -> dict[Evaluation, Path | None]:
    """Reads the values of `--root`, which are `DATASET=DIR`, or `DIR` if there is only one data set.

    Returns:
        The root of each evaluation's data set; None if the options name none.

    Raises:
        UserError: An unknown data set or one that nothing is evaluated on, no folder, or not one for each data set.
    """
    datasets = {evaluation.dataset for evaluation in evaluations}
    roots: dict[str, Path] = {}
    for text in options:
        dataset, equals, folder = text.partition("=")
        # A path may hold an "=" too; a data set's name has no slash.
        has_name = bool(equals) and "/" not in dataset
        if has_name and dataset not in DATASETS:
            raise UserError(f"--root {text}: unknown data set {dataset!r}", mend=nearest(dataset, DATASETS))
        if has_name and not folder:
            raise UserError(f"--root {text} names no folder", mend="is a variable of the shell not set?")
        if not has_name:
            if len(datasets) > 1:
                raise UserError(
                    f"--root {text} is one folder for several data sets",
                    mend="--root DATASET=DIR for each, or $SALMASK_DATA",
                )
            (dataset,), folder = datasets, text
        # Otherwise `--task linear --root caltech101=DIR` would measure the data set of the pretraining without a word.
        if dataset not in datasets:
            raise UserError(
                f"--root {text}: no task of this command is on {dataset}",
                mend=f"--task TASK@{dataset}, or leave this --root out",
            )
        if dataset in roots:
            raise UserError(f"--root names two folders for {dataset}", mend="leave one of them out")
        roots[dataset] = Path(folder)
    return {evaluation: roots.get(evaluation.dataset) for evaluation in evaluations}


def _evaluate_all(
    run: Run,
    folder: RunFolder,
    roots: Mapping[Evaluation, Path | None],
    carry_out: CarryOut,
    *,
    again: bool = False,
    as_json: bool,
) -> None:
    """Carries out evaluations one after the other, then prints their rows on rank 0."""
    # Faults of the whole command are found before the first evaluation, which may take hours.
    if len(roots) > 1:
        _check_all(run, folder, roots, again=again)
    rows: list[Result] = []
    first = is_first_process()
    try:
        for evaluation, root in roots.items():
            recorded = read(folder.results)[0] if first and exists(folder.results) else []
            carry_out(run, folder.path, evaluation.name(run), root, again=again)
            if not first:  # only rank 0 records and prints rows
                continue
            recorded_now = read(folder.results)[0]
            measured = evaluation.recorded(run, recorded_now)
            # Rows measured twice within a second may be equal in every field, so their number decides.
            if len(recorded_now) > len(recorded) and (before := evaluation.recorded(run, recorded)):
                _tell_replaced(before, measured, folder)
            rows += measured
    finally:
        # Rows that were measured before a failure are recorded, so they are printed, too.
        if rows:
            _show(rows, as_json=as_json)
    if first and not as_json:
        table = table_of([evaluation.task for evaluation in roots])
        suggest(f"salmask table {table} --runs {shlex.quote(str(folder.path.parent.parent))}")


def _show(rows: Sequence[Result], *, as_json: bool) -> None:
    """Prints rows: their metrics for people, or everything as JSON."""
    if as_json:
        say_json([asdict(row) for row in rows])
        return
    # Values of single splits, trials and learning rates (`top1@split=0`) are in the file and in JSON only.
    shown = [row for row in rows if "@" not in row.metric]
    width = max((len(row.metric) for row in shown), default=0)
    for row in shown:
        say(f"{row.metric:{width}} {_value(row)}   {row.protocol}, {row.dataset} {row.split}")


def table_of(tasks: Sequence[str]) -> str:
    """Returns the name of the table that shows these tasks: `table2` if all of them are detection's, else `table1`."""
    return "table2" if set(tasks) <= set(DETECTION_TASKS) else "table1"


def _tell_replaced(before: Sequence[Result], now: Sequence[Result], folder: RunFolder) -> None:
    """Prints to standard error which numbers of an evaluation were measured again, with their old values."""
    old_rows = {(row.protocol, row.split, row.metric): row for row in before}
    for row in now:
        old = old_rows.get((row.protocol, row.split, row.metric))
        if old is not None and "@" not in row.metric:
            earlier, value = (measured_text(row.metric, each.value) for each in (old, row))
            say(
                f"{row.metric} {earlier} of {old.started[:10]} (commit {old.commit[:7]}) is replaced by "
                f"{value}; both rows are in {folder.results}, and tables take the later one",
                err=True,
            )


def _value(row: Result) -> str:
    """Returns a row's value in a column of fixed width, with a percent sign or room for one."""
    return f"{measured_text(row.metric, row.value):>8} {'%' if is_accuracy(row.metric) else ' '}"


def _check_all(run: Run, folder: RunFolder, roots: Mapping[Evaluation, Path | None], *, again: bool) -> None:
    """Raises a UserError if one of the evaluations cannot begin, before the first one takes hours."""
    show_log()
    with OPENING.shown(shown=is_first_process()):
        OPENING.say("importing torch")
        from downstream.tasks import check_evaluations
        from repro.processes.distributed import initialise

        initialise(run.machine.device)
        check_evaluations(run, folder, roots, again=again)
