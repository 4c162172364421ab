"""`salmask bench scale`: exponents, sizes, and what its subjects measure."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from training_samples import refused, salmask

from baselines import resolve
from repro.bench.scale import Subject, Work, exponent, images_to_mask, measure_scale, sizes_of
from repro.bench.traffic import ARCH, DIMENSION, QUEUE, SIZE, bytes_gathered, bytes_of_gradients
from repro.contrastive.moco import MoCo
from repro.errors import UserError
from results.bench import rows_to_collect
from slurm.bench import folders_to_look_at
from slurm.planning.job_costs import JobCost, wall_seconds
from slurm.planning.sweep import Part, Sweep, expand


@contextmanager
def squares(size: int) -> Iterator[Work]:
    yield lambda: 3 * size**2


def test_the_exponent_is_the_slope_of_the_logarithms() -> None:
    sizes = [1, 2, 4, 8]
    assert exponent(sizes, [5 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    assert exponent(sizes, [7.0] * 4) == pytest.approx(0.0)


def test_rows_say_size_and_cost_and_the_last_one_the_exponent() -> None:
    rows = measure_scale([Subject("squares", "things", 160, squares, counts_bytes=True)], 0.1, rounds=1)
    assert [(row["size"], row["bytes"]) for row in rows] == [(2, 12), (4, 48), (8, 192), (16, 768)]
    assert [row["exponent"] for row in rows] == [None, None, None, 2.0]


def test_a_fraction_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"leaves 2 of 160 things of squares, .*; mend: --fraction 0\.05 or more"):
        sizes_of(Subject("squares", "things", 160, squares), 0.01)


def test_the_command_measures_what_is_named() -> None:
    ended = salmask("bench", "scale", "status", "plan", "--fraction", "0.0016", "--rounds", "1", "--json")
    assert ended.code == 0, ended.err
    rows = json.loads(ended.out)
    assert [(row["subject"], row["size"]) for row in rows] == [
        *(("status", size) for size in (2, 4, 8, 16)),
        *(("plan", size) for size in (2, 4, 8, 16)),
    ]
    assert all(row["wall_s"] > 0 for row in rows)
    assert "no subject 'plans'; mend: did you mean 'plan'?" in refused("bench", "scale", "plans")


def test_subjects_work_on_as_much_as_they_say() -> None:
    with folders_to_look_at(5, resolve=resolve) as look:
        jobs = json.loads(str(look()))["jobs"]
    assert len(jobs) == 5
    assert {job["images_per_second"] for job in jobs} == {800.0}
    with rows_to_collect(1200) as collect:
        frame = collect()
    assert len(frame) == 1200  # type: ignore[arg-type]
    with images_to_mask(2) as mask:
        masked = mask()
    assert masked.query.shape == (2, 3, 224, 224)  # type: ignore[attr-defined]


def test_wall_time_is_that_of_the_simulation_written_out() -> None:
    """As the plan used to compute it: among all jobs, the one that can start first, one after the other."""
    for number in range(20):
        draw = random.Random(number)
        parts = (Part(("mocov2", "simclr"), tuple(range(draw.randint(1, 5))), ("linear", "knn")),)
        graph = expand(Sweep("x", parts), Path("nowhere"), resolve, {})
        costs = {key: JobCost(draw.choice([None, 0.0, 1.0, 5 * draw.random()])) for key in graph.by_key}
        slots = draw.randint(1, 4)
        free, ends, waiting = [0.0] * slots, {}, list(graph.jobs)
        while waiting:
            slot = min(free)
            free.remove(slot)
            since = {
                job: ends[graph.key(parent)] if (parent := graph.parent(job)) else 0.0
                for job in waiting
                if graph.parent(job) is None or graph.key(graph.parent(job) or job) in ends
            }
            job = min(since, key=lambda job: (max(since[job], slot), since[job]))
            ends[graph.key(job)] = max(since[job], slot) + (costs[graph.key(job)].seconds or 0.0)
            free.append(ends[graph.key(job)])
            waiting.remove(job)
        assert wall_seconds(graph, costs, slots) == max(ends.values())


@pytest.mark.slow
def test_bytes_sent_are_those_of_images_embeddings_and_gradients() -> None:
    with bytes_gathered(2) as gathered, bytes_of_gradients(2) as reduced:
        sent = gathered(), reduced()
    images, embeddings = 2 * 3 * SIZE * SIZE * 4, 2 * DIMENSION * 4
    # Key and hard negative are shuffled and put back, and the key goes into every process's queue.
    assert sent[0] == 2 * (images + embeddings) + embeddings
    model = MoCo(ARCH, DIMENSION, queue=QUEUE, seed=0)
    assert sent[1] == sum(4 * parameter.numel() for parameter in model.encoder_q.parameters())
