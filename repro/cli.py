"""The `salmask` command: all that it does is a call into the rooms. Only its entry point (`repro.entry`) imports it."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any

import typer

from repro.command_line.lazy_commands import LazyCommand, lazy_app
from repro.command_line.terminal import say
from repro.ending import carry_out

# Each function below loads a room when one of its commands is called, and hands it what it may not import itself: the
# launcher and the tables know no methods, the methods' room knows none of the competitors.


def _resolve(method: str, *layers: Any, origin: str = "settings") -> Any:
    from baselines import resolve

    return resolve(method, *layers, origin=origin)


def _methods() -> Iterable[str]:
    from baselines import METHODS

    return METHODS


def _training() -> typer.Typer:
    from repro.jobs import carry_out
    from repro.training.commands import build

    return build(_resolve, carry_out, _methods)


def _results() -> typer.Typer:
    from results.commands import build

    return build(_resolve)


def _comparisons() -> typer.Typer:
    from results.comparison.commands import build

    return build(_resolve, _pictures)


def _pictures() -> Any:
    from downstream.scored_pictures import pictures_of_scored

    return pictures_of_scored


def _sweeps() -> typer.Typer:
    from repro.jobs import PROGRAM
    from results.tables.commands import show_tables, table_names
    from slurm.commands import build

    return build(_resolve, partial(show_tables, recipe=_resolve), PROGRAM, _methods, table_names)


def _jobs() -> typer.Typer:
    from repro.jobs import PROGRAM
    from slurm.status_commands import build

    return build(PROGRAM)


def _watch() -> typer.Typer:
    from repro.watch import build

    return build(_resolve)


def _clusters() -> typer.Typer:
    from slurm.cluster_commands import app

    return app


def _evaluation() -> typer.Typer:
    from downstream.commands import build
    from repro.jobs import carry_out

    return build(carry_out)


def _export() -> typer.Typer:
    from repro.backbones.commands import build

    return build()


def _data() -> typer.Typer:
    from repro.data.commands import app
    from repro.training.map_commands import data_saliency
    from repro.training.weights_command import data_weights

    app.command("saliency")(data_saliency)
    app.command("weights")(data_weights)
    return app


def _rows() -> Any:
    from baselines import METHODS, TABLE1, build_learner, resolve
    from repro.settings.rows import Rows

    return Rows(METHODS, list(TABLE1), resolve, build_learner)


def _methods_and_audit() -> typer.Typer:
    from repro.methods.commands import build

    return build(_rows)


def _bench() -> typer.Typer:
    from repro.bench.commands import build
    from repro.jobs import PROGRAM
    from results.bench_commands import bench_claims, bench_collect, bench_power
    from slurm.nodes.remote_bench import bench_on_node

    app = build(_rows, _subjects, partial(bench_on_node, program=PROGRAM.measure))
    app.command("collect")(bench_collect)
    app.command("power")(bench_power)
    app.command("claims")(bench_claims)
    return app


def _subjects() -> Any:
    from baselines import resolve
    from repro.bench.scale import Subject, images_to_mask
    from repro.bench.traffic import bytes_gathered, bytes_of_gradients
    from results.bench import rows_to_collect
    from slurm.bench import folders_to_look_at, runs_to_plan

    return [
        Subject("plan", "runs", 10_000, partial(runs_to_plan, resolve=resolve)),
        Subject("status", "run folders", 10_000, partial(folders_to_look_at, resolve=resolve)),
        Subject("collect", "rows", 1_000_000, rows_to_collect),
        Subject("masking", "images of 224 px", 128, images_to_mask),
        Subject("ddp-gathers", "images of 64 px per process", 64, bytes_gathered, counts_bytes=True),
        Subject("ddp-gradients", "images of 64 px per process", 64, bytes_of_gradients, counts_bytes=True),
    ]


def _doctor() -> typer.Typer:
    from repro.doctor.commands import build

    return build(_probe_cluster, _needs_of_sweep)


def _probe_cluster(name: str, **options: Any) -> Any:
    from repro.jobs import PROGRAM
    from slurm.nodes.probe import probe  # submitit takes a second, which `salmask doctor` alone does not need
    from slurm.profiles.profile import load

    return probe(load(name), PROGRAM, **options)


def _needs_of_sweep(name: str, **words: str) -> Any:
    from slurm.planning.needs import (
        needs_of_sweep,  # reads sweeps with omegaconf, which `salmask doctor` alone does not need
    )

    return needs_of_sweep(name, _resolve, **words)


def _drill() -> typer.Typer:
    from repro.drill.commands import build

    return build(main)


def _settings_named(name: str) -> Sequence[str]:
    from repro.settings.reading import settings_named

    return settings_named(name)


TRAIN, EVALUATE, READ = "Train", "Evaluate", "Read results"
JOBS, MACHINE = "Jobs and clusters", "Data and machines"
"""The headings of `salmask --help`."""

COMMANDS = {
    "pretrain": LazyCommand("Pretrain a method; the same command resumes an interrupted run.", _training, panel=TRAIN),
    "sweep": LazyCommand(
        "Pretrain and evaluate a whole table; a second call does only what is missing.", _sweeps, panel=TRAIN
    ),
    "methods": LazyCommand(
        "List the rows that can be trained; show one, compare two, or tell what they cost.",
        _methods_and_audit,
        panel=TRAIN,
    ),
    "audit": LazyCommand(
        "Look at what masking hides: a page with pictures and statistics, beside random patches and the released code.",
        _methods_and_audit,
        panel=TRAIN,
    ),
    "export": LazyCommand(
        "Write a run's backbone as another library loads it, with a card: method, data, protocol, results, licence.",
        _export,
        panel=EVALUATE,
    ),
    "eval": LazyCommand(
        "Evaluate a backbone by named, versioned protocols; recorded results are only read.",
        _evaluation,
        panel=EVALUATE,
    ),
    "probe": LazyCommand(
        "Evaluate a finished run by linear probing on its own data: short for `salmask eval RUN --task linear`.",
        _evaluation,
        panel=EVALUATE,
    ),
    "table": LazyCommand(
        "Show a table of the paper beside recorded results; --out writes it as Markdown, LaTeX, CSV and HTML.",
        _results,
        panel=READ,
    ),
    "claims": LazyCommand(
        "Check the paper's claims against the runs at hand: supported, tie, contradicted, undecided or not run.",
        _results,
        panel=READ,
    ),
    "plot": LazyCommand("Draw a plot from recorded runs, as SVG and PNG.", _results, panel=READ),
    "collect": LazyCommand(
        "Write every result of the run folders as one long table, for pandas, R or a spreadsheet.", _results, panel=READ
    ),
    "compare": LazyCommand(
        "Compare two methods, sweeps or runs, image by image: how sure the difference is, by class, and what flips.",
        _comparisons,
        panel=READ,
    ),
    "explain": LazyCommand(
        "Tell where a number comes from: the runs behind a cell, their code, settings, data, machine and logs.",
        _results,
        panel=READ,
    ),
    "report": LazyCommand(
        "Write one self-contained HTML page: the verdict, forest plot, tables, claims, runs and a checklist.",
        _results,
        panel=READ,
    ),
    "pack": LazyCommand(
        "Make one zip of everything but checkpoints: report, tables, data, settings, provenance, commands, checksums.",
        _results,
        panel=READ,
    ),
    "cluster": LazyCommand("Check the profile of a cluster, or make a first one.", _clusters, group=True, panel=JOBS),
    "status": LazyCommand(
        "Show what every job is doing: how far it is, why it waits, how it ended, or the number that it found.",
        _jobs,
        panel=JOBS,
    ),
    "watch": LazyCommand(
        "Show a sweep in progress as the report's page: states, time left, hours spent, curves and tables so far.",
        _watch,
        panel=JOBS,
    ),
    "logs": LazyCommand("Show what the newest attempt at a run printed.", _jobs, panel=JOBS),
    "cancel": LazyCommand(
        "End the jobs of a sweep or a run; each saves a checkpoint, and `salmask retry` resumes from it.",
        _jobs,
        panel=JOBS,
    ),
    "retry": LazyCommand(
        "Submit again what failed, died, was interrupted or cancelled; each job resumes from its last checkpoint.",
        _jobs,
        panel=JOBS,
    ),
    "clean": LazyCommand(
        "Remove what nobody needs any more: checkpoints of what is done, files of old submissions, unused code.",
        _jobs,
        panel=JOBS,
    ),
    "doctor": LazyCommand(
        "Check packages, devices, data roots and weights; say what is wrong and the mend.", _doctor, panel=MACHINE
    ),
    "drill": LazyCommand(
        "Kill, signal and damage a tiny run for real, here or on a cluster, and check that nothing is lost.",
        _drill,
        panel=MACHINE,
    ),
    "data": LazyCommand("List, verify, prepare and cache data sets.", _data, group=True, panel=MACHINE),
    "bench": LazyCommand("Measure speed, growth of cost and errors of tests.", _bench, group=True, panel=MACHINE),
}

RESUMABLE = (
    *("pretrain", "sweep", "eval", "probe", "retry"),
    *("data prepare", "data cache", "data saliency"),
)
"""The commands that resume when they are called again after an interruption."""

HELP = """Saliency-guided masking for contrastive learning: train, evaluate, and get the paper's tables back.

Without a command: the next steps from where you stand. Each command has an example in its own --help.

Exit status: 0 done; 1 a check failed (doctor, data verify, drill), a job failed (sweep --local, retry), Slurm had no \
room for all jobs, or a fault of salmask's own or of code added to it; 2 bad input, in one line with the mend; 128 + N \
stopped by signal N (130: Ctrl-C; 141: the output was closed), and the same command continues.
"""


def _begin(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and the commit, and exit.")] = False,
) -> None:
    if version:
        from repro import __version__
        from repro.runs.provenance import source

        say(f"salmask {__version__} (commit {source().commit[:7]})")
    elif context.invoked_subcommand is None:
        from slurm.next_steps import standing

        here = standing()
        width = max(len(step.command) for step in here.steps)
        say(f"{here.sentence} Next:\n")
        for step in here.steps:
            say(f"  {step.command:{width}}  {step.purpose}")
        say("\nAll commands: salmask --help")
    else:
        return
    raise typer.Exit


app = lazy_app(COMMANDS, help=HELP, callback=_begin)


def main() -> None:
    """Runs the command, and ends the process with a status that `HELP` lists."""
    carry_out(app, settings_named=_settings_named, resumable=RESUMABLE)


if __name__ == "__main__":
    main()
