"""What a plan says of costs that are unknown can be done as it says."""

import json
import shlex
from pathlib import Path

import pytest
from training_samples import TINY, salmask


@pytest.mark.parametrize("as_json", [True, False])
def test_the_benchmark_that_a_plan_asks_for_is_of_the_sweeps_settings(tmp_path: Path, *, as_json: bool) -> None:
    """Without them, it timed another network at another size, and the plan knew as little as before."""
    sweep = tmp_path / "mine.yaml"
    part = {"methods": ["mocov2"], "settings": {"moco.queue": 64}}
    parts = [part, {"methods": ["mocov2+mscn"], "settings": {"moco.queue": 32}}]
    content = {"parts": parts, "seeds": [0, 1], "tasks": ["linear"], "settings": {**TINY, "data.crop": 48}, "table": []}
    sweep.write_text(json.dumps(content))
    command = ("sweep", str(sweep), "--plan", "--out", str(tmp_path / "runs"), "encoder.dim=32", "data.crop=40")
    if as_json:
        job = json.loads(salmask(*command, "--json").out)["jobs"][0]
        methods, line = ["mocov2"], job["measured"]
    else:
        methods = ["mocov2", "mocov2+mscn"]
        (line,) = (line for line in salmask(*command).out.splitlines() if "no such pretraining" in line)
    words = shlex.split(line.partition("mend: ")[2])
    assert words[: 3 + len(methods)] == ["salmask", "bench", "step", *methods]
    assert {"encoder.dim=32", "data.crop=40", f"data.dataset={TINY['data.dataset']}"} < {*words}
    assert not [word for word in words if word.startswith("moco.queue") or word == "data.crop=48"]
    quick = ("--steps", "1", "--warm-up", "1", "--out", str(tmp_path / "steps.jsonl"))
    assert salmask(*words[1:], *quick).code == 0
