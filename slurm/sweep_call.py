"""A call of `salmask sweep`: its graph is planned, kept within a budget, and submitted to Slurm or run here."""

import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from repro.command_line.progress import suggest
from repro.command_line.terminal import Console, say, say_json
from repro.errors import UserError, with_mend
from repro.filesystem.files import is_of_a_full_disk
from repro.filesystem.presence import exists
from repro.quantities import counted
from repro.runs.status import PRETRAIN
from slurm.jobs.program import Program
from slurm.monitoring.queue import array_of
from slurm.planning.before_launch import check_roots
from slurm.planning.graph import Graph
from slurm.planning.needs import missing_weights
from slurm.profiles.profile import Cluster
from slurm.submission.handover import Outcome
from slurm.sweep_folder.ledger import Key, Ledger

# What plans and launches is imported where it is used: submitit takes a second, which `--plan` need not wait for.

if TYPE_CHECKING:
    from slurm.planning.job_costs import JobCost
    from slurm.submission.sender import TakeCode

FEED_SECONDS = 60.0
"""Between two looks for room in Slurm's queue, which serves everybody."""
_WITHOUT_COST = "leave out --budget-gpu-hours, or such jobs by --tasks"
"""The mend where a job has no known cost, and no measurement would give it one."""
Show = Callable[[Sequence[str], Path, Console], None]
"""`show(tables, sweep's folder, console)`: prints tables and writes them beside the runs."""


@dataclass(frozen=True)
class SweepCall:
    """A call of `salmask sweep`: what all the ways to carry a graph out have in common."""

    show: Show
    program: Program
    console: Console
    parallel: int
    allow_dirty: bool
    as_json: bool
    gpus: tuple[str, ...] = ()
    """Devices to share out among jobs on this machine; none: every job sees those of this process."""
    feed: bool = False
    """Whether to stay until Slurm has taken everything."""
    replace: bool = False
    """Whether to cancel what is on its way with other settings."""

    def plan(self, graph: Graph, cluster: Cluster | None, budget: float, *, print_it: bool) -> Graph:
        """Returns what fits a budget of GPU-hours (0: all of it), and prints its plan if that is asked for."""
        from slurm.plan import SweepPlan, print_plan, say_plan_as_json
        from slurm.planning.job_costs import estimate, survey

        finished, evidence = survey(graph)
        costs = estimate(graph, cluster, evidence, finished)
        if budget:
            graph = self._within_budget(graph, costs, budget)
        if print_it:
            planned = SweepPlan(graph, costs, finished, cluster, self.parallel, evidence.memories)
            if self.as_json:
                say_plan_as_json(planned)
            else:
                print_plan(planned, self.console)
        return graph

    def _within_budget(self, graph: Graph, costs: Mapping[Key, "JobCost"], budget: float) -> Graph:
        """Returns what fits a budget of GPU-hours, and tells what is left out."""
        from slurm.planning.job_costs import of_known_cost, within_budget

        known, unknown = of_known_cost(graph, costs)
        if not known.jobs:
            cost, jobs = next(iter(unknown.items()))
            what = f"no run fits a budget of {budget:g} GPU-hours: what they cost is unknown ({cost.source})"
            raise UserError(what, mend=cost.mend_of(jobs, graph.settings) or _WITHOUT_COST)
        fitting, left_out = within_budget(known, costs, budget)
        if not fitting.jobs:
            mend = "a larger --budget-gpu-hours; --plan alone shows what each row costs"
            raise UserError(f"no run fits a budget of {budget:g} GPU-hours", mend=mend)
        if left_out:
            self._tell(f"left out for the budget of {budget:g} GPU-hours: {', '.join(left_out)}")
        for cost, jobs in unknown.items():
            names = ", ".join(job.run_name for job in jobs)
            what = f"left out for the budget, since their cost is unknown: {names} ({cost.source})"
            self._tell(with_mend(what, cost.mend_of(jobs, graph.settings) or _WITHOUT_COST))
        return fitting

    def carry_out(self, graph: Graph, cluster: Cluster, *, dry_run: bool) -> None:
        """Launches a graph on Slurm or here, or shows what would be submitted.

        Raises:
            UserError: An option is for Slurm only, and the profile is not; or the launch is refused.
            typer.Exit: A job failed, or was not submitted; the console says which.
        """
        if cluster.executor != "slurm":
            for option, given in (("--dry-run", dry_run), ("--feed", self.feed), ("--replace", self.replace)):
                if given:
                    mend = "--plan" if option == "--dry-run" else f"leave out {option}"
                    raise UserError(f"{option} is for Slurm only; '{cluster.name}' has no sbatch", mend=mend)
            self._run_here(graph, cluster)
        elif dry_run:
            self._show_scripts(graph, cluster)
        else:
            finished = graph.finished()
            for line in [*check_roots(graph, finished, on_nodes=True), *missing_weights(graph, finished)]:
                self._tell(line)
            self._submit(graph, cluster)

    def _show_scripts(self, graph: Graph, cluster: Cluster) -> None:
        from slurm.jobs.snapshot import CODE
        from slurm.submission.launch import scripts

        for name, script in scripts(graph, cluster, graph.sweep_folder.resolve() / CODE / "COMMIT"):
            say(f"# ---- {name}\n{script}")

    def _submit(self, graph: Graph, cluster: Cluster) -> None:
        from slurm.jobs.snapshot import take
        from slurm.planning.job_costs import with_plan

        # Checked before anything else: a sweep that is done needs no Slurm and no committed code, only its tables. For
        # any other sweep, `submit` looks again at what is missing, under the launch lock.
        if len(graph.finished()) == len(graph.jobs):
            self.console.print(f"{counted(len(graph.jobs), 'job')}, all done")
            if graph.evaluates:  # else there is nothing to tabulate
                self.show(graph.tables, graph.sweep_folder, self.console)
            self._say_submitted(Outcome(skipped=list(graph.jobs)), graph)
            return
        graph = with_plan(graph, cluster)
        outcome = self.submit_all(graph, cluster, lambda: take(graph.sweep_folder, allow_dirty=self.allow_dirty))
        failed = len(outcome.failed)
        self._tell(
            f"{counted(len(outcome.submitted), 'job')} submitted, {len(outcome.skipped)} done before, "
            f"{outcome.on_way} queued or running{f', {failed} failed' if failed else ''}; "
            f"watch them with: salmask status {shlex.quote(str(graph.sweep_folder))}"
        )
        if outcome.outdated:
            self._tell(
                f"{counted(outcome.outdated, 'job')} on the way with other settings than the sweep has now; "
                "--replace cancels these and submits them anew"
            )
        if outcome.unsent:
            self._tell(outcome.unsent_told("the same command later, or with --feed, which stays until all are in"))
        self._say_submitted(outcome, graph)
        if outcome.unsent or failed:
            raise typer.Exit(1)

    def _say_submitted(self, outcome: Outcome, graph: Graph) -> None:
        """Prints how a launch with Slurm ended, where JSON is asked for."""
        if self.as_json:
            ids = {f"{folder} {task}": job for (folder, task), job in outcome.submitted.items()}
            counts = {"done": len(outcome.skipped), "live": outcome.on_way, "unsent": len(outcome.unsent)}
            say_json({"submitted": ids, **counts, "failed": outcome.failed_by_name(graph)})

    def submit_all(self, graph: Graph, cluster: Cluster, take_code: "TakeCode") -> Outcome:
        """Submits what is missing; with `feed`, again and again until Slurm has taken all of it.

        A call submits each job once: one that failed or was cancelled meanwhile would take the room of one that was
        never submitted. Jobs that are cancelled before that are left out. The call ends if the sweep's folder is
        removed.

        Args:
            graph: The sweep.
            cluster: A profile of Slurm.
            take_code: Takes the code that the jobs run, once something is to be submitted.

        Raises:
            UserError: The launch is refused, or the sweep's folder is gone.
        """
        from slurm.monitoring.queue import SilentSlurmError
        from slurm.submission.launch import submit
        from slurm.sweep_folder.launch_lock import BusySweepError

        submitted: dict[Key, str] = {}
        failed: dict[Key, str] = {}
        unsent: frozenset[Key] | None = None
        ledger = Ledger(graph.sweep_folder)
        cancels = len(ledger.cancel_requests())
        code = _TakenOnce(take_code)
        while True:
            replaces = self.replace and unsent is None
            try:
                outcome = submit(
                    graph,
                    cluster,
                    code.take,
                    self.program,
                    self.console,
                    replace_old=replaces,
                    again=unsent,
                    cancels=cancels,
                )
            except UserError as error:
                passes = isinstance(error, SilentSlurmError | BusySweepError) or is_of_a_full_disk(error)
                if unsent is None or not passes:
                    raise
                self._tell(f"{error.what}; looking again in {FEED_SECONDS:.0f} s")
            else:
                if not (self.feed and outcome.has_room_later):
                    return outcome.merged(submitted, failed, graph)
                submitted |= outcome.submitted
                failed |= outcome.failed
                unsent = frozenset(outcome.unsent)
                self._tell(f"{outcome.unsent_words}; looking for room again in {FEED_SECONDS:.0f} s")
            # A running job may make the folder again, but not the ledger.
            place = ledger.path if exists(ledger.path) else ledger.sweep
            time.sleep(FEED_SECONDS)
            if not exists(place):
                raise _removed(ledger.sweep, submitted.values())

    def _tell(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def _run_here(self, graph: Graph, cluster: Cluster) -> None:
        from slurm.local.launch import launch_here
        from slurm.planning.job_costs import with_plan

        for line in missing_weights(graph, graph.finished()):
            self._tell(line)
        outcome = launch_here(
            with_plan(graph, cluster),
            cluster,
            self.program,
            parallel=self.parallel,
            console=self.console,
            gpus=self.gpus,
        )
        counts = (
            f"{counted(len(outcome.done), 'job')} done, {len(outcome.skipped)} done before, "
            f"{len(outcome.failed)} failed"
        )
        with_slurm = len(outcome.live) + len(outcome.unsent)
        left = f", {with_slurm} left to Slurm, which has them or what they build on" if with_slurm else ""
        self._tell(counts + left)
        if any(job.task != PRETRAIN for job in (*outcome.done, *outcome.skipped)):  # else there is nothing to tabulate
            self.show(graph.tables, graph.sweep_folder, self.console)
        if self.as_json:
            say_json({"done": [job.name for job in outcome.done], "failed": outcome.failed_by_name(graph)})
        if outcome.failed:
            suggest(f"salmask status {shlex.quote(str(graph.sweep_folder))}")
            raise typer.Exit(1)
        suggest(f"salmask report --runs {shlex.quote(str(graph.sweep_folder))}")


def _removed(folder: Path, jobs: Iterable[str]) -> UserError:
    """Returns the refusal to go on with a sweep whose folder is gone: whoever removed it gave the sweep up.

    Args:
        folder: Of the sweep.
        jobs: Slurm's ids of what this call submitted, which nothing else names any more.
    """
    ids = [*dict.fromkeys(array_of(job) for job in jobs)]
    mend = f"scancel {' '.join(ids)}, unless it was moved" if ids else "the same command makes it anew"
    return UserError(f"{folder} is gone, so no more of its jobs are submitted", mend=mend)


class _TakenOnce:
    """Takes the code once for all rounds of a call: what is edited meanwhile is for the next call."""

    def __init__(self, take_code: "TakeCode") -> None:
        self._take_code = take_code
        self._code: Path | None = None

    def take(self) -> Path | None:
        if self._code is None or not self._code.is_dir():  # `salmask clean` removed it, as no job ran from it
            self._code = self._take_code()
        return self._code
