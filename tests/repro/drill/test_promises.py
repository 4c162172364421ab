"""How `salmask drill --cluster` judges what it saw, without any Slurm; test_slurm_jobs.py has a real one."""

from pathlib import Path
from typing import Any

import pytest
from training_samples import refused
from yaml_samples import write_yaml

from repro.drill.on_cluster import ClusterDrill
from repro.drill.promises import PREEMPTED, PROMISES, TIMED_OUT, UNDISTURBED, PromiseVerdict, judge, mend_of
from repro.drill.stories import Story
from repro.errors import UserError
from repro.runs.folder import RunFolder
from slurm.profiles.profile import load

PROFILE = {"cpus": 4, "gpus": 2, "processes": 2, "partition": "gpu"}


class Teller:
    """Makes stories out of a few rows."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.cluster = load(write_yaml(place / "mine.yaml", PROFILE | {"scratch": str(place / "scratch")}))

    def story(
        self, name: str, rows: list[dict[str, Any]], *, struck: int = 15, resumed: int = 15, weights: str = "a"
    ) -> Story:
        """A story that has ended.

        Args:
            name: Its promise.
            rows: What was seen.
            struck: The step at which it was disturbed; 0: it was not.
            resumed: The step from which it resumed; 0: it began anew.
            weights: Its final weights.
        """
        story = Story(self.place / name, self.cluster, retried=PROMISES[name].retried)
        story.seen = [{"note": "", "host": "n1", "attempt": 1, "step": 0, **row} for row in rows]
        story.furthest = {row["attempt"]: row["step"] for row in story.seen}
        story.happened_at = struck
        run = RunFolder(story.runs / "mocov2" / "s0-abc")
        run.path.mkdir(parents=True, exist_ok=True)
        run.set_status("done", resumed_at=resumed)
        run.backbone.write_text(weights)
        return story


@pytest.fixture
def teller(tmp_path: Path) -> Teller:
    return Teller(tmp_path)


HELD, BROKEN, UNTRIED = PromiseVerdict
RAN = {"state": "running", "step": 15}
DONE = {"state": "done", "step": 60, "attempt": 2}
DIED = {"state": "died", "step": 15, "note": "Slurm says TIMEOUT"}


@pytest.mark.parametrize(
    ("name", "rows", "how", "verdict", "found"),
    [
        (
            "requeued",
            [RAN, DONE],
            {"resumed": 10},
            HELD,
            "disturbed at step 15, and resumed from step 10, and ended in the same weights",
        ),
        ("requeued", [RAN, DONE], {"resumed": 0}, BROKEN, "resumed from step 0"),
        ("requeued", [RAN, DONE], {"weights": "b"}, BROKEN, "but ended in other weights"),
        ("requeued", [RAN, DONE | {"host": "n2"}], {"weights": "b"}, UNTRIED, "on other nodes, too: n1, n2"),
        ("requeued", [RAN, DIED], {}, BROKEN, "died, Slurm says TIMEOUT"),
        (
            "requeued",
            [RAN, {"state": "preempted", "note": "Resources"}],
            {},
            UNTRIED,
            "not over in time: preempted, Resources",
        ),
        ("requeued", [{"state": "queued", "note": "Priority"}], {"struck": 0}, UNTRIED, "queued, Priority"),
        ("requeued", [DONE], {"struck": 0}, UNTRIED, "done before it could be disturbed"),
        ("warned", [RAN, DONE], {}, HELD, "resumed from step 15"),
        ("warned", [RAN, DONE], {"resumed": 10}, BROKEN, "resumed from step 10"),
        (
            "warned",
            [RAN, {"state": "failed", "note": "interrupted 1 times, gave up"}],
            {},
            BROKEN,
            "failed, interrupted 1 times",
        ),
        ("killed", [RAN, DIED, DONE], {"resumed": 10}, HELD, "and ended in the same weights"),
        (
            "killed",
            [RAN, {"state": "cancelled"}, DONE],
            {},
            BROKEN,
            "it was not reported as dead, but as running, cancelled, done",
        ),
        (PREEMPTED, [RAN, DONE], {"resumed": 10}, HELD, "and ended in the same weights"),
        (PREEMPTED, [RAN, DONE | {"attempt": 1}], {"resumed": 0}, UNTRIED, "did not displace it"),
        (
            TIMED_OUT,
            [RAN | {"step": 900}, RAN | {"step": 950, "attempt": 2}],
            {"resumed": 901, "struck": 0},
            HELD,
            "resumed from step 901",
        ),
        (
            TIMED_OUT,
            [RAN | {"step": 900}, RAN | {"step": 950, "attempt": 2}],
            {"resumed": 890, "struck": 0},
            BROKEN,
            "step 890",
        ),
        (TIMED_OUT, [RAN | {"step": 900}, DIED], {"struck": 0}, BROKEN, "Slurm says TIMEOUT"),
        (TIMED_OUT, [RAN | {"step": 900}], {"struck": 0}, UNTRIED, "not over in time: running"),
    ],
)
def test_a_promise_is_judged_by_what_was_seen(
    teller: Teller, name: str, rows: list[dict[str, Any]], how: dict[str, Any], verdict: PromiseVerdict, found: str
) -> None:
    reference = teller.story(UNDISTURBED, [RAN, DONE | {"attempt": 1}], struck=0, resumed=0)
    judged, seen = judge(name, PROMISES[name], teller.story(name, rows, **how), reference)
    assert (judged, found in seen) == (verdict, True), seen
    assert bool(mend_of(judged, PROMISES[name])) is (judged is not HELD)


def test_without_an_undisturbed_run_no_weights_are_compared(teller: Teller) -> None:
    reference = teller.story(UNDISTURBED, [{"state": "failed", "note": "cannot write"}], struck=0)
    assert judge(UNDISTURBED, PROMISES[UNDISTURBED], reference, None) == (BROKEN, "failed, cannot write")
    judged, seen = judge("requeued", PROMISES["requeued"], teller.story("requeued", [RAN, DONE]), reference)
    assert (judged, seen.endswith("no undisturbed run to compare its weights with")) == (UNTRIED, True)


def test_what_slurm_refuses_to_do_is_told(teller: Teller) -> None:
    for name, verdict in (("requeued", BROKEN), (PREEMPTED, UNTRIED)):
        story = teller.story(name, [RAN])
        story.trouble = "scontrol: Access/permission denied"
        assert judge(name, PROMISES[name], story, teller.story(UNDISTURBED, [DONE])) == (verdict, story.trouble)


def test_the_jobs_ask_for_one_process_of_what_the_profile_asks_for(teller: Teller) -> None:
    drill = ClusterDrill(teller.cluster)
    story = drill._story("requeued", PROMISES["requeued"])
    asked = story.cluster.resources
    assert (asked.partition, asked.nodes, asked.tasks_per_node, asked.gpus, asked.cpus) == ("gpu", 1, 1, 1, 4)
    assert story.runs.is_relative_to(teller.place / "scratch" / ".drill")
    assert not (teller.place / "scratch").exists()


def test_a_drill_of_no_cluster_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"'local' runs jobs on this machine; mend: salmask drill, without --cluster"):
        ClusterDrill(load("local"))
    with pytest.raises(
        UserError, match=r"^--by 'local' runs jobs on this machine; mend: a profile of jobs that may preempt$"
    ):
        ClusterDrill(load("slurm"), load("local"))
    assert refused("drill", "--by", "slurm").startswith("--by is for a drill on a cluster, and none is named")
    assert refused("drill", "--wait", "3").startswith("--wait is for a drill on a cluster, and none is named")
    assert refused("doctor", "--wait", "60").startswith("--wait is for a cluster, and none is named")
    assert refused("doctor", "--nodes", "2").startswith("--nodes is for a cluster, and none is named")
    assert refused("drill", "--cluster", "slurm", "--in", str(tmp_path)).startswith(
        "--in is for a drill on this machine"
    )
    for option, default in (("--points", "12"), ("--inputs", "700"), ("--seed", "0")):
        for value in ("3", default):
            assert refused("drill", "--cluster", "slurm", option, value).startswith(
                f"{option} is for a drill on this machine"
            )
    monkeypatch.setenv("PATH", "/nowhere")
    assert refused("drill", "--cluster", "slurm").endswith("mend: call this on a login node of the cluster")
