"""`throttle` limits the whole sweep, however its jobs are split into arrays; a simulated Slurm runs the scripts."""

import heapq
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_samples import Sweep as SweepFolder
from sweep_samples import queue_of
from training_samples import TINY

from baselines import resolve
from slurm.monitoring.states import State
from slurm.planning.sweep import Part, Sweep, expand
from slurm.profiles.profile import Cluster, Resources
from slurm.submission.batches import Batch
from slurm.submission.lanes import EARLIER, Weights, behind, in_lanes, jobs_by_lane
from slurm.submission.launch import scripts
from slurm.sweep_folder.ledger import Key, Submission

TASKS = ("linear", "knn", "logistic")


@dataclass
class Playing:
    """A simulated Slurm that starts jobs at once, limited only by `%` and dependencies."""

    seed: int = 0
    arrays: dict[str, tuple[list[str], int, str]] = field(default_factory=dict)
    """Name -> its jobs, how many may run at a time, its dependency."""

    def submit(self, name: str, script: str) -> None:
        options = dict(re.findall(r"^#SBATCH --([\w-]+)='?([^'\n]*)'?$", script, re.MULTILINE))
        numbers, _, at_a_time = options.get("array", "").partition("%")
        jobs = [f"<{name}>"]
        if numbers:
            spans = [span.partition("-") for span in numbers.split(",")]
            indices = [index for first, _, last in spans for index in range(int(first), int(last or first) + 1)]
            jobs = [f"<{name}>_{index}" for index in indices]
        self.arrays[f"<{name}>"] = jobs, int(at_a_time or 1), options.get("dependency", "")

    def play(self, failing: float = 0.0) -> tuple[int, list[str]]:
        """The largest number of jobs that ran at a time, and the jobs that ended well, in their order."""
        chance = random.Random(self.seed)
        waiting = [(name, job) for name, (jobs, _, _) in self.arrays.items() for job in jobs]
        running: list[tuple[float, str, str]] = []
        succeeded: list[str] = []
        ended: set[str] = set()
        now, most = 0.0, 0
        while waiting or running:
            for name, job in list(waiting):
                _, at_a_time, dependency = self.arrays[name]
                ready = self._ready(job, dependency, ended, succeeded)
                if ready is None:  # its parent failed: kill-on-invalid-dep
                    waiting.remove((name, job))
                    ended.add(job)
                elif ready and sum(other == name for _, other, _ in running) < at_a_time:
                    waiting.remove((name, job))
                    heapq.heappush(running, (now + chance.choice((0.1, 1.0, 5.0)), name, job))
            most = max(most, len(running))
            if running:
                now, _, job = heapq.heappop(running)
                ended.add(job)
                if chance.random() >= failing:
                    succeeded.append(job)
            else:
                assert not waiting or any(
                    self._ready(job, self.arrays[name][2], ended, succeeded) is not False for name, job in waiting
                ), "nothing can ever start"
        return most, succeeded

    def _ready(self, job: str, dependency: str, ended: set[str], succeeded: Sequence[str]) -> bool | None:
        answers: list[bool | None] = []
        for part in filter(None, dependency.split(",")):
            kind, *ids = part.split(":")
            for parent in ids:
                members = self.arrays[parent][0] if parent in self.arrays else [parent]
                if kind == "aftercorr":
                    members = [f"{parent}_{job.rpartition('_')[2]}"]
                all_ended = all(member in ended for member in members)
                if kind != "afterany" and all_ended and not all(member in succeeded for member in members):
                    return None
                answers.append(all_ended)
        return all(answers)


def played(place: Path, throttle: int, seeds: int, tasks: Sequence[str], max_array: int = 0, seed: int = 0) -> Playing:
    sweep = Sweep("s", (Part(("mocov2", "simclr"), tuple(range(seeds)), tuple(tasks), settings=TINY),))
    cluster = Cluster("c", resources=Resources(throttle=throttle), max_array=max_array)
    playing = Playing(seed)
    for name, script in scripts(expand(sweep, place / "s", resolve, {}), cluster, place / "code"):
        playing.submit(name, script)
    return playing


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 4), st.integers(0, 3), st.sampled_from([0, 2, 3]), st.integers(0, 99),
    st.sampled_from([0.0, 0.3]),
)  # fmt: skip
def test_never_more_run_than_the_throttle_says_and_all_of_it_runs(
    tmp_path_factory: pytest.TempPathFactory,
    throttle: int, seeds: int, tasks: int, max_array: int, seed: int, failing: float,
) -> None:  # fmt: skip
    playing = played(tmp_path_factory.getbasetemp(), throttle, seeds, TASKS[:tasks], max_array, seed)
    most, succeeded = playing.play(failing)
    assert most <= throttle
    if not failing:
        jobs = 2 * seeds * (1 + tasks) + (1 if tasks else 0)
        assert len(succeeded) == jobs
        assert most == min(throttle, max(most, 1))
        if tasks:
            assert "-report-" in succeeded[-1]


def test_without_a_throttle_all_runs_at_once(tmp_path: Path) -> None:
    assert played(tmp_path, 0, 4, TASKS).play()[0] > 8
    scripts_of_none = played(tmp_path, 0, 2, ("linear",)).arrays
    assert all(dependency in ("",) or dependency.startswith(("aftercorr", "afterany:<")) for _, _, dependency in
               scripts_of_none.values())  # fmt: skip


def test_what_is_done_has_no_script(tmp_path: Path) -> None:
    sweep = Sweep("s", (Part(("mocov2",), (0, 1), ("linear",), settings=TINY),))
    graph = expand(sweep, tmp_path / "s", resolve, {})
    cluster = Cluster("c", resources=Resources())
    done = graph.jobs[0].folder
    done.path.mkdir(parents=True)
    done.backbone.touch()
    named = dict(scripts(graph, cluster, tmp_path / "code"))
    tasks = [name.split("-")[-2] for name in named]
    assert tasks == ["pretrain", "linear", "linear", "report"]  # one evaluation at once, one behind its pretraining
    assert not any("--array" in script for script in named.values())


def test_most_places_go_where_most_work_is(tmp_path: Path) -> None:
    keys = {task: tuple((f"m/s{seed}-0", task) for seed in range(30)) for task in ("pretrain", *TASKS)}
    batches = [Batch(f"s-{task}-1", task, keys[task], Resources(), parents=()) for task in keys]
    planned = {key: 36000.0 if task == "pretrain" else 600.0 for task in keys for key in keys[task]}
    placed = in_lanes(batches, 16, [], planned)
    shares = {batch.task: batch.at_a_time for batch in placed}
    lanes = {batch.lane: batch.at_a_time for batch in placed}
    assert shares["pretrain"] >= 13
    assert sum(lanes.values()) == 16
    assert sum(batch.lane == placed[0].lane for batch in placed) == 1  # evaluations do not wait for all pretrainings
    heavy = in_lanes(batches, 16, [], dict.fromkeys(planned, 600.0))
    assert {batch.task: batch.at_a_time for batch in heavy}["pretrain"] <= 6
    # With no figures, a pretraining counts as twenty evaluations.
    assert {batch.task: batch.at_a_time for batch in in_lanes(batches, 16, [], {})}["pretrain"] >= 12
    halves = [batch for whole in batches for batch in whole.split(15)]
    in_halves = in_lanes(halves, 16, [], planned)
    assert len({batch.lane for batch in in_halves if batch.task == "pretrain"}) == 1
    limited = [replace(batch, resources=Resources(throttle=2)) for batch in batches]
    assert {batch.at_a_time for batch in in_lanes(limited, 16, [], planned)} <= {1, 2}  # a task's own limit


def divided(throttle: int, jobs: int, seconds: dict[str, float]) -> dict[str, tuple[str, int]]:
    """Lane and places of each task, with `jobs` jobs per task."""
    keys = {task: tuple((f"m/s{seed}-0", task) for seed in range(jobs)) for task in seconds}
    batches = [Batch(f"s-{task}-1", task, keys[task], Resources(), parents=()) for task in keys]
    placed = in_lanes(batches, throttle, [], {key: seconds[key[1]] for task in keys for key in keys[task]})
    return {batch.task: (batch.lane, batch.at_a_time) for batch in placed}


def test_there_are_as_many_lanes_as_end_soonest() -> None:
    # Three jobs of each task: one lane would run the tasks one after the other, on three of its seven places.
    placed = divided(8, 3, {"pretrain": 60.0, **dict.fromkeys(TASKS, 36000.0)})
    assert len({lane for lane, _ in placed.values()}) == 4
    # However long three pretrainings take, a fourth place would not shorten them.
    placed = divided(8, 3, {"pretrain": 36000.0, **dict.fromkeys(TASKS, 60.0)})
    assert placed["pretrain"][1] == 3
    # Six jobs of each task: with three places, both tasks in turn take 4000 s; with two and one, 3000 s and 6000 s.
    placed = divided(4, 6, {"pretrain": 100.0, "linear": 1000.0, "knn": 1000.0})
    assert placed["linear"] == placed["knn"] != placed["pretrain"]
    assert [places for _, places in placed.values()] == [1, 3, 3]
    # Short evaluations after long pretrainings: each further lane would take a place from the pretrainings.
    placed = divided(4, 30, {"pretrain": 36000.0, **dict.fromkeys(TASKS, 60.0)})
    assert placed["pretrain"][1] == 3
    assert len({lane for lane, _ in placed.values()}) == 2
    # In a shared lane, the second task would begin only after the last pretraining's evaluation: that costs more here.
    placed = divided(4, 4, {"pretrain": 1000.0, **dict.fromkeys(TASKS, 600.0)})
    assert len({lane for lane, _ in placed.values()}) == 4


def test_where_each_has_a_place_nothing_waits_for_its_turn() -> None:
    """Nor does one pretraining wait for another."""
    later = replace(one("pretrain", "m/b"), name="s-pretrain-3")
    placed = in_lanes([one("pretrain", "m/a"), later, one("linear", "m/a", "m/b")], 4, [], {})
    assert len({batch.lane for batch in placed}) == 3
    assert [batch.at_a_time for batch in placed] == [1, 1, 2]
    assert in_lanes([one("report", ".")], 4, [], {}) == [one("report", ".")]


def test_what_nobody_timed_takes_as_long_as_the_mean_of_what_was() -> None:
    weights = Weights({("m/a", "linear"): 100.0, ("m/b", "knn"): 300.0, ("m/a", "pretrain"): 7.0})
    assert [weights.of_key(("m/c", task)) for task in ("linear", "pretrain")] == [200.0, 4000.0]
    assert weights.of_key(("m/a", "pretrain")) == 7.0
    assert Weights({}).of_key(("m/c", "pretrain")) == 20.0


def entry(job: str, task: str = "pretrain", **more: object) -> Submission:
    values = {
        "submission": f"s-{job}",
        "executor": "slurm",
        "cluster": "c",
        "run": "0",
        "folder": f"m/{job}",
        "job": job,
    }
    return Submission(**{**values, "task": task, **more})  # type: ignore[arg-type]


def one(task: str, *names: str) -> Batch:
    keys: tuple[Key, ...] = tuple((name, task) for name in names)
    return Batch(f"s-{task}-2", task, keys, Resources())


def test_what_goes_out_later_gets_places_that_are_free_or_waits_its_turn() -> None:
    live = [entry(f"1_{number}", lane="a", at_a_time=3) for number in range(5)]
    live += [entry("2_0", "linear", lane="b", at_a_time=1)]
    # All four places belong to lanes: a retry joins the lane with the least to do.
    (placed,) = in_lanes([one("knn", "m/x", "m/y")], 4, live, {})
    assert (placed.lane, placed.at_a_time) == ("b", 1)
    assert behind(placed, jobs_by_lane(live)) == ["2_0"]
    assert placed.dependency({}, behind(placed, jobs_by_lane(live))) == "afterany:2"
    # A lane that is nearly done gives its places to others, and needs no more than it has jobs left.
    fewer = [*live[:1], live[-1]]
    new = in_lanes([one("knn", "m/x", "m/y", "m/z")], 4, fewer, {})
    assert new[0].at_a_time == 2
    assert new[0].lane not in ("a", "b", "")
    (reused,) = in_lanes([one("knn", "m/x", "m/y", "m/z")], 2, fewer, {})
    assert reused.at_a_time == 1
    # Jobs of an earlier profile without a throttle do not say how many run at a time.
    old = [entry(f"3_{number}") for number in range(9)]
    others = [entry("4", "report"), entry("77", executor="local"), entry("", lane="c", at_a_time=4)]
    assert jobs_by_lane([*old, *others]) == {EARLIER: [e.job for e in old], "c": []}  # the last one has no id yet
    (free,) = in_lanes([one("knn", "m/x")], 1, others[:2], {})  # neither holds a place
    assert free.lane != EARLIER
    (waiting,) = in_lanes([one("knn", "m/x")], 4, old, {})
    assert waiting.lane == EARLIER
    assert behind(waiting, jobs_by_lane(old)) == [e.job for e in old]


def test_much_that_goes_out_later_is_not_left_to_the_few_places_that_are_free() -> None:
    """More seeds, launched while the last of the first ones ran, used to be trained one at a time to the end."""
    live = [entry(f"1_{number}", lane="a", at_a_time=12) for number in range(11)]
    more = one("pretrain", *(f"m/s{seed}" for seed in range(39)))
    (placed,) = in_lanes([more], 12, live, {})
    assert (placed.lane, placed.at_a_time) == ("a", 11)
    # A single job would not end sooner there.
    (alone,) = in_lanes([one("pretrain", "m/s0")], 12, live, {})
    assert (alone.lane in ("a", ""), alone.at_a_time) == (False, 1)
    # Each goes where it ends soonest: some start at once on the free place, the many follow the lane that runs.
    some, many = in_lanes([one("linear", "m/x"), more], 12, live, {})
    assert (some.lane in ("a", ""), many.lane) == (False, "a")


def test_what_waits_for_its_turn_in_a_lane_is_not_said_to_build_on_anything(sweep: SweepFolder) -> None:
    sweep.submitted(lane="a1")
    waiting = queue_of("PENDING", "Dependency", start=None)
    note = "Dependency: the sweep's throttle is reached"
    assert (sweep.row(waiting).state, sweep.row(waiting).note) == (State.queued, note)
    sweep.says("interrupted", age=60)  # requeued
    assert (sweep.row(waiting).state, sweep.row(waiting).note) == (State.preempted, note)
    sweep.submitted("linear", "813", lane="a1", after=("812",))
    child = queue_of("PENDING", "Dependency", job="813", start=None)
    assert sweep.row(child, "linear").note == "Dependency: waits for the job that it builds on"
