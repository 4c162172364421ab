"""One limit for all jobs of a sweep: how many run at a time, whatever their arrays and whenever they were submitted.

Slurm limits the jobs of one array (`--array=0-38%12`); a limit over several arrays needs an administrator. So a
profile's `throttle` is divided among *lanes*. In a lane, one array comes after the other: each waits until all before
it in the lane have ended, in any way (`afterany`), and runs as many jobs at a time as the lane has places. The lanes'
places add up to the throttle at most, so that Slurm itself keeps it, and no process has to watch. What is submitted
later, by a retry or as Slurm has room, gets the places that no lane has, or comes behind the jobs of a lane, whichever
is planned to end sooner.

Pretrainings have a lane of their own if there are places for two lanes. How many lanes the evaluations share, and how
many places each lane gets, is chosen by the planned durations of the jobs.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import uuid4

from repro.runs.status import PRETRAIN
from slurm.submission.batches import Batch
from slurm.sweep_folder.ledger import REPORT, Key, Submission

PRETRAINING_WEIGHT = 20.0
"""How much longer than an evaluation a pretraining is taken to be if its duration is unknown."""

EARLIER = "earlier"
"""The lane that stands for jobs that were submitted without one, by a profile that set no throttle."""


@dataclass
class Lane:
    """Arrays that come one after the other."""

    name: str
    places: int
    """Jobs at a time."""
    batches: list[Batch] = field(default_factory=list)
    """Of this launch."""
    work: float = 0.0
    """Planned seconds of the jobs of these batches, one after the other."""
    before: float = 0.0
    """Planned seconds until the jobs that earlier launches put into it have ended."""

    def end(self, weights: "Weights", more: Sequence[Batch] = ()) -> float:
        """Returns the seconds until its last job ends, with some more batches, if none waits for another lane."""
        return self.before + sum(weights.duration(batch, self.places) for batch in (*self.batches, *more))


class Weights:
    """How long batches are planned to take."""

    def __init__(self, planned: Mapping[Key, float]) -> None:
        """Keeps a plan.

        Args:
            planned: Seconds of each job whose duration is known.
        """
        known = [seconds for (_, task), seconds in planned.items() if task != PRETRAIN]
        self._planned = planned
        self._unit = sum(known) / len(known) if known else 1.0

    def of_key(self, key: Key) -> float:
        """Returns the seconds of a job; if unknown, the mean of the evaluations, weighted for a pretraining."""
        guess = self._unit * (PRETRAINING_WEIGHT if key[1] == PRETRAIN else 1.0)
        return self._planned.get(key, guess)

    def of(self, batch: Batch) -> float:
        """Returns the seconds of a batch's jobs, one after the other."""
        return sum(map(self.of_key, batch.keys))

    def duration(self, batch: Batch, places: int) -> float:
        """Returns the seconds of a batch, of which `places` jobs run at a time, each as long as their mean."""
        return math.ceil(len(batch.keys) / places) * self.of(batch) / len(batch.keys)


def in_lanes(
    batches: Iterable[Batch], throttle: int, live: Iterable[Submission], planned: Mapping[Key, float]
) -> list[Batch]:
    """Returns batches with their lanes and how many of each run at a time.

    Args:
        batches: To be submitted, in an order in which every job comes after what it waits for.
        throttle: Jobs of the sweep at a time; 0: no limit, and no lanes.
        live: What is queued or running since earlier launches.
        planned: Seconds that jobs are planned to take.
    """
    batches = list(batches)
    if not throttle:
        return batches
    working = [batch for batch in batches if batch.task != REPORT]
    weights = Weights(planned)
    lanes = _live_lanes(live, throttle, weights)
    free = throttle - sum(lane.places for lane in lanes)
    choices = [_new_lanes(working, free, weights)] if free > 0 else []
    if lanes:
        choices.append(_behind_live(working, [*lanes, *([Lane(_name(), free)] if free > 0 else [])], weights))
    # If both end at the same time, the new lanes: there, no job waits for those of earlier launches.
    lanes = min(choices, key=lambda lanes: _last_end(lanes, weights))
    placed = {batch.name: lane for lane in lanes for batch in lane.batches}
    return [_placed(batch, placed[batch.name]) if batch.name in placed else batch for batch in batches]


def jobs_by_lane(live: Iterable[Submission]) -> dict[str, list[str]]:
    """Returns the ids of the jobs of each lane that are queued or running.

    Args:
        live: What is queued or running since earlier launches.
    """
    return {lane: [entry.job for entry in entries if entry.job] for lane, entries in _by_lane(live).items()}


def _by_lane(live: Iterable[Submission]) -> dict[str, list[Submission]]:
    by_lane: dict[str, list[Submission]] = {}
    for entry in live:
        if entry.executor == "slurm" and entry.task != REPORT:
            by_lane.setdefault(entry.lane or EARLIER, []).append(entry)
    return by_lane


def behind(batch: Batch, lanes: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns the ids of the jobs of a batch's lane, which must have ended before the batch begins.

    Args:
        batch: The batch to submit.
        lanes: Ids of the jobs in each lane.
    """
    return list(lanes.get(batch.lane, ())) if batch.lane else []


def _placed(batch: Batch, lane: Lane) -> Batch:
    own_limit = batch.resources.throttle or lane.places  # a task may ask for fewer than the sweep
    return replace(batch, lane=lane.name, at_a_time=min(lane.places, own_limit))


def _live_lanes(live: Iterable[Submission], throttle: int, weights: Weights) -> list[Lane]:
    """Returns the lanes of earlier launches, each with as many places as its jobs can still take."""
    lanes = []
    for name, entries in _by_lane(live).items():
        # How many jobs without a lane run at a time, nothing says: all of them may.
        most = max(entry.at_a_time or len(entries) for entry in entries)
        places = min(most, len(entries), throttle)
        lanes.append(Lane(name, places, before=sum(weights.of_key(entry.key) for entry in entries) / places))
    return lanes


def _behind_live(batches: Sequence[Batch], lanes: list[Lane], weights: Weights) -> list[Lane]:
    """Returns lanes, some with jobs of earlier launches, with each batch in the one in which it ends soonest."""
    for batch in batches:
        min(lanes, key=lambda lane: lane.end(weights, [batch])).batches.append(batch)
    return lanes


def _new_lanes(batches: Sequence[Batch], free: int, weights: Weights) -> list[Lane]:
    """Returns new lanes for batches, with `free` places together."""
    if sum(len(batch.keys) for batch in batches) <= free:
        return [Lane(_name(), len(batch.keys), [batch]) for batch in batches]
    # With two lanes or more, the first pretrainings are evaluated while others train: results come early.
    fewest = min(2, free, len(batches))
    divisions = [_divided(batches, number, free, weights) for number in range(fewest, min(free, len(batches)) + 1)]
    return min(divisions, key=lambda lanes: _last_end(lanes, weights))


def _divided(batches: Sequence[Batch], number: int, free: int, weights: Weights) -> list[Lane]:
    """Returns at most `number` lanes and their places; only a single one holds pretrainings with evaluations."""
    lanes = [Lane(_name(), 1) for _ in range(number)]
    mixed = number == 1 or len({batch.task == PRETRAIN for batch in batches}) == 1
    for batch in batches:
        choice = lanes if mixed else lanes[:1] if batch.task == PRETRAIN else lanes[1:]
        lane = min(choice, key=lambda lane: lane.work)
        lane.batches.append(batch)
        lane.work += weights.of(batch)
    lanes = [lane for lane in lanes if lane.batches]
    for _ in range(free - len(lanes)):
        growing = [lane for lane in lanes if lane.places < max(len(batch.keys) for batch in lane.batches)]
        if not growing:
            break
        max(growing, key=lambda lane: lane.work / lane.places).places += 1
    return lanes


def _last_end(lanes: Sequence[Lane], weights: Weights) -> float:
    """Returns the seconds until the last lane ends, each batch of evaluations after the last pretraining."""
    pretrained = 0.0
    last = 0.0
    for lane in lanes:
        now = lane.before
        for batch in lane.batches:
            now += weights.duration(batch, lane.places)
            if batch.task == PRETRAIN:
                pretrained = max(pretrained, now)
            else:
                now = max(now, pretrained + weights.of(batch) / len(batch.keys))
        last = max(last, now)
    return last


def _name() -> str:
    return uuid4().hex[:8]
