"""Whether a task is done: it is if all results that were asked for are there, whatever else is said."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from run_samples import RESULT
from sweep_samples import GONE, RUN, SILENT, Sweep, queue_of
from training_samples import tiny

from repro.errors import UserError
from repro.runs.records import Result, append
from repro.settings.detection import VOC
from slurm.jobs.orders import order_file, write_order
from slurm.monitoring.queue import QueueSnapshot
from slurm.monitoring.states import State
from slurm.planning.graph import Job, make_graph
from slurm.profiles.profile import Cluster
from slurm.submission.handover import ledger_entry


@pytest.mark.parametrize("queue", [GONE, SILENT, queue_of("FAILED", "exit 1", end=-1), queue_of("RUNNING")])
def test_a_result_that_is_there_is_done_whatever_slurm_says(sweep: Sweep, queue: QueueSnapshot) -> None:
    sweep.submitted()
    sweep.submitted("linear", "813")
    sweep.says("running", age=9999)
    sweep.folder.backbone.touch()
    sweep.measured(61.5)
    sweep.measured(70.1)
    assert sweep.row(queue).state is State.done
    row = sweep.row(queue, "linear")
    assert (row.state, row.metric, row.value) == (State.done, "top1", 70.1)
    assert row.note == f"{RUN.probe.protocol().name}, {RUN.data.dataset}"


def test_the_headline_of_a_detection_is_the_ap_of_its_boxes(sweep: Sweep) -> None:
    sweep.folder.backbone.touch()
    detection = {"task": VOC, "dataset": VOC, "protocol": RUN.detection.protocol(VOC, 8).name}
    append(
        sweep.folder.results,
        [
            replace(RESULT, **{"run_id": RUN.id, **detection, "metric": metric, "value": value})
            for metric, value in (("seconds_per_iteration", 0.4), ("bbox_AP50", 80.0), ("bbox_AP", 55.0))
        ],
    )
    row = sweep.row(GONE, VOC, entry=False)
    assert (row.state, row.metric, row.value) == (State.done, "bbox_AP", 55.0)


def test_a_detection_with_the_batch_of_the_devices_at_hand_is_the_one_that_was_asked_for(sweep: Sweep) -> None:
    sweep.folder.prepare(RUN)
    sweep.folder.backbone.touch()
    protocol = RUN.detection.protocol(VOC).name
    sweep.submitted(VOC, "813", protocols=(protocol,))
    detection = {"task": VOC, "dataset": RUN.data.dataset, "metric": "bbox_AP"}
    append(sweep.folder.results, [replace(RESULT, run_id=RUN.id, **detection, protocol="voc-frcnn-c4-24k-v1[rois=9]")])
    assert sweep.row(GONE, VOC).state is State.died
    left_open = replace(RESULT, run_id=RUN.id, **detection, protocol=RUN.detection.protocol(VOC, 8).name, value=55.0)
    append(sweep.folder.results, [left_open])
    assert left_open.protocol != protocol
    assert (sweep.row(GONE, VOC).state, sweep.row(GONE, VOC).value) == (State.done, 55.0)  # by the run's settings
    order = order_file(sweep.folder, VOC)
    write_order(tiny(changes={"detection.rois": 5}), sweep.folder, VOC)
    assert sweep.row(GONE, VOC).state is State.died  # the order says that another batch was asked for
    order.write_text("detection: {batches: 3}")  # an order of another version: the names alone count
    assert sweep.row(GONE, VOC).state is State.died


def test_a_result_of_another_protocol_or_data_set_is_not_the_one_that_was_asked_for(sweep: Sweep) -> None:
    sweep.measured(protocol="linear-moco-v1[epochs=99]")
    sweep.submitted("linear", "813")
    assert sweep.row(GONE, "linear").state is State.died
    sweep.submitted("linear@caltech101", "814")
    assert sweep.row(GONE, "linear@caltech101").state is State.died
    sweep.measured(dataset="caltech101")
    assert sweep.row(GONE, "linear@caltech101").state is State.done


def test_a_task_is_done_when_all_of_what_was_asked_for_is_there_whatever_its_status_says(sweep: Sweep) -> None:
    """Measured by hand with k=3, then submitted by a sweep with k=5: the pending job used to be told as done."""
    sweep.submitted("knn", "813", protocols=(RUN.knn.protocol(3).name, RUN.knn.protocol(5).name))
    sweep.measured(task="knn", protocol=RUN.knn.protocol(3).name)
    sweep.says("done", task="knn", age=3602)
    waiting = queue_of("PENDING", "Priority", job="813", name="sweep-knn-813")
    assert sweep.row(waiting, "knn").state is State.queued
    assert sweep.row(GONE, "knn").state is not State.done
    sweep.measured(task="knn", protocol=RUN.knn.protocol(5).name)
    assert sweep.row(GONE, "knn").state is State.done


def test_a_task_of_no_named_data_set_is_not_done_by_rows_of_another_one(sweep: Sweep) -> None:
    """The protocols of kNN have the same name on every data set."""
    run = sweep.run
    graph = make_graph(sweep.place, [Job(run, sweep.folder, task) for task in ("pretrain", "knn")], ())
    entry = ledger_entry(graph, Cluster("mine"), "s-knn-1", (sweep.key, "knn"), ())
    sweep.ledger.submitted([replace(entry, job="813")])
    protocols = graph.jobs[1].protocols
    for protocol in protocols:
        sweep.measured(task="knn", protocol=protocol, dataset="caltech101")
    assert sweep.row(queue_of("PENDING", job="813", name="s-knn-1"), "knn").state is State.queued
    for protocol in protocols:
        sweep.measured(task="knn", protocol=protocol, dataset=run.data.dataset)
    assert sweep.row(GONE, "knn").state is State.done


def test_a_pretraining_is_done_whatever_the_results_beside_it_are_like(sweep: Sweep) -> None:
    """A damaged results file does not cause a new training; results are read once, for the evaluations."""
    tasks = ("pretrain", "linear", "knn")
    graph = make_graph(sweep.place, [Job(sweep.run, sweep.folder, task) for task in tasks], ())
    sweep.folder.prepare(sweep.run)
    sweep.folder.backbone.touch()
    reads: list[Path] = []

    def damaged(path: Path) -> Sequence[Result]:
        raise UserError(f"{path} is damaged", mend="delete it")

    def empty(path: Path) -> Sequence[Result]:
        reads.append(path)
        return []

    assert graph.finished(damaged) == graph.finished(empty) == {(sweep.key, "pretrain")}
    assert reads == [sweep.folder.results]


def test_a_recorded_run_without_its_backbone_was_pretrained_and_one_that_was_launched_was_not(sweep: Sweep) -> None:
    sweep.says("done")
    sweep.measured()
    recorded = sweep.row(GONE, entry=False)
    assert (recorded.state, recorded.note) == (State.done, "its backbone is not kept here")
    sweep.submitted()
    assert sweep.row(GONE).state is State.failed
