"""What salmask promises of jobs on a cluster, how each promise is tried, and the verdict on what was seen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from repro.drill.stories import CHECKPOINT_EVERY, Story
from slurm.ask import ask
from slurm.monitoring.states import ENDED_BADLY, State

LIMIT_MINUTES = 3
"""Time limit in minutes of the job that is to run out of time; Slurm checks limits every 30 s or so."""
WARNED_SECONDS = 60


class PromiseVerdict(StrEnum):
    """The verdict on a promise."""

    held = "held"
    broken = "did not hold"
    untried = "could not be tried"


@dataclass(frozen=True)
class PromiseRow:
    """A row of the table: one promise, and the verdict on it on this cluster."""

    promise: str
    tried: str
    """How the promise was tried."""
    verdict: PromiseVerdict
    found: str
    mend: str


@dataclass(frozen=True)
class Promise:
    """What salmask promises of jobs on a cluster, and how it is tried."""

    promise: str
    tried: str
    mend: str
    """What a person can do if it does not hold."""
    mishap: Callable[[str], object] | None = None
    """What is done to the job; see `Story.mishap`."""
    saves_first: bool = False
    """Whether no step may be lost: the job is warned first, saves, and goes on from there."""
    retried: bool = False
    """Whether the job ends, and has to be submitted again."""


def _requeue(job: str) -> str:
    return ask(["scontrol", "requeue", job]).trouble


def _warn(job: str) -> str:
    return ask(["scancel", "--signal=USR2", job]).trouble


def _kill(job: str) -> str:
    """Kills the processes of a job but not its shell, as the kernel does if memory runs out."""
    return ask(["scancel", "--signal=KILL", f"{job}.0"]).trouble


UNDISTURBED, TIMED_OUT, PREEMPTED = "undisturbed", "timed out", "preempted"
PROMISES: Mapping[str, Promise] = {
    UNDISTURBED: Promise(
        "a job runs to its end and leaves its result",
        "an undisturbed tiny run",
        "salmask doctor --cluster NAME",
    ),
    "requeued": Promise(
        "a job that is put back in the queue goes on, and ends in the same weights",
        "scontrol requeue",
        "ask the administrators for JobRequeue=1, or name another partition in the profile",
        _requeue,
    ),
    "warned": Promise(
        "a job that is warned saves, goes back to the queue by itself, and resumes where it was",
        "scancel --signal=USR2, as before a preemption",
        "put scontrol on the nodes' PATH (the profile's setup), and set `attempts` to 2 or more",
        _warn,
        saves_first=True,
    ),
    "killed": Promise(
        "a job that is killed is reported as dead, and goes on when it is submitted again",
        "scancel --signal=KILL of its step, as when memory runs out",
        "salmask retry, after a look at salmask logs",
        _kill,
        retried=True,
    ),
    TIMED_OUT: Promise(
        "a job that runs out of time is warned before, saves, and resumes where it was",
        f"a limit of {LIMIT_MINUTES} min, with a warning {WARNED_SECONDS} s before",
        "set a longer signal_seconds in the profile, and a smaller machine.checkpoint_every",
        saves_first=True,
    ),
    PREEMPTED: Promise(
        "a preempted job goes on, and ends in the same weights",
        "a job of --by that is sent to its node",
        "name a partition whose PreemptMode is REQUEUE in the profile, and set a smaller machine.checkpoint_every",
    ),
}
"""The promises by name, in the order of the table."""


AGAIN = "try again with a longer --wait; a nodelist of one node in the profile keeps all runs on that node"
Judgement = tuple[PromiseVerdict, str]
"""A verdict, and what was seen."""


def judge(name: str, promise: Promise, story: Story, reference: Story | None) -> Judgement:
    """Returns the verdict on a promise, and what was seen.

    Args:
        name: Name of the promise.
        promise: The promise.
        story: What was seen of its run.
        reference: The undisturbed run; None: `story` is that one.
    """
    last = story.seen[-1] if story.seen else {"state": State.queued, "note": "it was not seen"}
    now = f"{last['state']}, {last['note']}" if last["note"] else str(last["state"])
    if reference is None:
        return (PromiseVerdict.held, "done") if last["state"] == State.done else _unfinished(story, now)
    if name == TIMED_OUT:
        return _compared(name, promise, story, reference) if went_on(story) else _unfinished(story, now)
    return (
        _not_struck(name, story, now) or _ended_badly(promise, story, now) or _compared(name, promise, story, reference)
    )


def went_on(story: Story) -> bool:
    """Returns whether the second attempt at an endless run came further than the first."""
    return story.furthest.get(2, 0) > story.furthest.get(1, 0) > 0


def _unfinished(story: Story, now: str) -> Judgement:
    """Returns the verdict on a run that did not finish."""
    is_bad = bool(_bad_rows(story))
    return (PromiseVerdict.broken, now) if is_bad else (PromiseVerdict.untried, f"not over in time: {now}")


def _bad_rows(story: Story) -> list[dict[str, Any]]:
    return [row for row in story.seen if row["state"] in ENDED_BADLY]


def _not_struck(name: str, story: Story, now: str) -> Judgement | None:
    """Returns the verdict on a run whose mishap did not come; None if it came."""
    if story.trouble:
        return (PromiseVerdict.untried if name == PREEMPTED else PromiseVerdict.broken), story.trouble
    if story.happened_at:
        return None
    is_done = bool(story.seen) and story.seen[-1]["state"] == State.done
    return PromiseVerdict.untried, "it was done before it could be disturbed" if is_done else now


def _ended_badly(promise: Promise, story: Story, now: str) -> Judgement | None:
    """Returns the verdict on a run that did not end well; None if it did."""
    bad = _bad_rows(story)
    if bad and not promise.retried:
        return PromiseVerdict.broken, f"{bad[0]['state']}, {bad[0]['note']}"
    if promise.retried and State.died not in story.states:
        return PromiseVerdict.broken, f"it was not reported as dead, but as {', '.join(story.states)}"
    return None if story.seen[-1]["state"] == State.done else (PromiseVerdict.untried, f"not over in time: {now}")


def _compared(name: str, promise: Promise, story: Story, reference: Story) -> Judgement:
    """Returns the verdict on a run that went on: from which step, and whether to the weights of the undisturbed run."""
    if name == PREEMPTED and max(story.furthest) < 2:
        return PromiseVerdict.untried, "the job of --by did not displace it"
    struck = story.furthest[1] if name == TIMED_OUT else story.happened_at
    how = f"it was disturbed at step {struck}, and resumed from step {story.resumed_at}"
    if story.resumed_at < (struck if promise.saves_first else CHECKPOINT_EVERY):
        return PromiseVerdict.broken, how
    if name == TIMED_OUT:
        return PromiseVerdict.held, how
    if reference.seen[-1]["state"] != State.done:
        return PromiseVerdict.untried, f"{how}; there is no undisturbed run to compare its weights with"
    return _weights(how, story, reference)


def _weights(how: str, story: Story, reference: Story) -> Judgement:
    if story.folder.backbone.read_bytes() == reference.folder.backbone.read_bytes():
        return PromiseVerdict.held, f"{how}, and ended in the same weights"
    hosts = sorted({row["host"] for seen in (story.seen, reference.seen) for row in seen if row["host"]})
    if len(hosts) > 1:  # the last bits depend on the processor
        return PromiseVerdict.untried, f"{how}, and ended in other weights, but on other nodes, too: {', '.join(hosts)}"
    return PromiseVerdict.broken, f"{how}, but ended in other weights"


def mend_of(verdict: PromiseVerdict, promise: Promise) -> str:
    """Returns what a person can do about a verdict."""
    if verdict is PromiseVerdict.held:
        return ""
    return promise.mend if verdict is PromiseVerdict.broken else AGAIN
