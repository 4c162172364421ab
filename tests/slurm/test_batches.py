"""What one sbatch submits, and the dependencies it gives its jobs: arithmetic on ids, without any Slurm."""

from pathlib import Path

import pytest
from launch_samples import CLUSTER, graph_for

from slurm.profiles.profile import Resources
from slurm.submission.batches import Batch, Parent, plan_batches
from slurm.sweep_folder.ledger import REPORT

RUNS = ("m/a", "m/b", "m/c")
CHILDREN, PARENTS = (tuple((run, task) for run in RUNS) for task in ("linear", "pretrain"))
PROBES = Batch("s-linear-1a", "linear", CHILDREN, Resources(), parents=PARENTS)
TABLES = Batch("s-report-1a", REPORT, ((".", REPORT),), Resources(), "afterany", (*PARENTS, *CHILDREN))


def ids(*numbers: str) -> dict[tuple[str, str], str]:
    return dict(zip(PARENTS, numbers, strict=False))


@pytest.mark.parametrize(
    ("submitted", "parts"),
    [
        (ids("7_0", "7_1", "7_2"), [("aftercorr:7", ["9_0", "9_1", "9_2"])]),
        # Two parent arrays: only the indices that are wanted, ascending. A single child waits for one job of an array.
        (ids("7_4", "8_1", "7_2"), [("aftercorr:7", ["9_2", "9_4"]), ("afterok:8_1", ["9"])]),
        (ids("7", "8"), [("afterok:7", ["9"]), ("afterok:8", ["9"])]),  # the third one's parent has no id: it stays out
        ({}, []),
    ],
)
def test_children_wait_each_for_its_own_parent(
    submitted: dict[tuple[str, str], str], parts: list[tuple[str, list[str]]]
) -> None:
    resolved = PROBES.resolved(submitted)
    assert [(part.dependency(submitted), [part.job_id(key, "9") for key in part.keys]) for part in resolved] == parts
    for part in resolved:
        assert part.after(submitted) == {key: (submitted[key[0], "pretrain"],) for key in part.keys}
    assert [part.name == PROBES.name for part in resolved] == [len(resolved) == 1] * len(resolved)


def test_a_report_waits_for_the_end_of_what_is_in_once_for_each_array() -> None:
    submitted = {**ids("7_0", "7_1"), CHILDREN[0]: "8"}
    (part,) = TABLES.resolved(submitted)
    assert part.dependency(submitted, behind=["8", "5_3", "5_4"]) == "afterany:7:8:5"
    assert part.after(submitted) == {(".", REPORT): ("7_0", "7_1", "8")}
    (alone,) = TABLES.resolved({})
    assert (alone.dependency({}), alone.after({})) == ("", {(".", REPORT): ()})


def test_a_lane_says_nothing_twice_of_a_parent() -> None:
    (part,) = Batch("s-linear-1a", "linear", CHILDREN[:1], Resources(), parents=PARENTS[:1]).resolved(ids("7"))
    assert part.dependency(ids("7"), behind=["7", "6_1", "6_2"]) == "afterok:7,afterany:6"
    (whole,) = PROBES.resolved(ids("7_0", "7_1", "7_2"))
    # Its jobs begin only once the parents' whole array has ended, and each only if its own parent succeeded.
    assert whole.dependency(ids("7_0", "7_1", "7_2"), behind=["7_0"]) == "aftercorr:7,afterany:7"


def test_what_waits_for_nothing_is_an_array_or_a_single_job() -> None:
    (array,) = Batch("s-pretrain-1a", "pretrain", PARENTS, Resources()).resolved({})
    assert (array.dependency({}), array.indices) == ("", (0, 1, 2))
    assert array.after({}) == dict.fromkeys(PARENTS, ())
    first, second = array.split(1)
    assert (first.keys, second.keys) == (PARENTS[:1], PARENTS[1:])
    assert len({first.name, second.name, array.name}) == 3
    assert first.resolved({})[0].indices == ()


def test_a_part_of_an_array_keeps_each_jobs_own_parent() -> None:
    part = PROBES.only({CHILDREN[0], CHILDREN[2]})
    assert (part.keys, part.parents) == (CHILDREN[::2], PARENTS[::2])
    (resolved,) = part.resolved(ids("7_0", "7_1", "7_2"))
    assert resolved.indices == (0, 2)
    assert (PROBES.only(CHILDREN), PROBES.only(()).keys) == (PROBES, ())


def test_what_is_done_or_on_its_way_does_not_go_out(tmp_path: Path) -> None:
    graph = graph_for(tmp_path, seeds=3)
    done, on_way, *_ = [job for job in graph.jobs if job.task == "pretrain"]
    done.folder.prepare(done.run)
    done.folder.backbone.write_text("weights")
    live = {graph.key(on_way): Parent("s-pretrain-00000000", "90")}
    batches = list(plan_batches(graph, CLUSTER, 10, live))
    keys = [key for batch in batches for key in batch.keys]
    assert sorted(keys) == sorted({*graph.by_key, graph.report} - {graph.key(done), graph.key(on_way)})
    assert dict(batches[-1].earlier_ids) == {graph.key(on_way): "90"}
