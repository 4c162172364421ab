"""`salmask cluster check` and `make`, with small scripts in place of sbatch and sinfo."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from training_samples import refused, salmask
from yaml_samples import write_yaml

from repro.errors import UserError
from slurm.ask import ask
from slurm.profiles.first_profile import first_profile, parse_sinfo
from slurm.profiles.profile import load

SINFO = """cpu*|2-00:00:00|64|515000|(null)
gpu|1-00:00:00|64+|512000+|gpu:a100:4(S:0-1)
gpu|1-00:00:00|32|256000|gpu:v100:2
old|infinite|8|64000|gpu:2
a broken line
"""
SBATCH = """#!/bin/sh
[ "$*" = --test-only ] || exit 9
cat >"$FAKE/script"
env >"$FAKE/environment"
grep -q "partition=gone" "$FAKE/script" && { echo "sbatch: error: invalid partition specified: gone" >&2; exit 1; }
echo "sbatch: Job 7 to start at 2026-01-01T00:00:00 using 8 processors on nodes n1 in partition gpu" >&2
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of scripts that stand in for Slurm's commands."""
    folder = tmp_path / "fake"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "sinfo": f"#!/bin/sh\ncat <<'EOF'\n{SINFO}EOF\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_a_profile_is_tried_on_sbatch_for_every_task(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "7")  # of an interactive job, in which salmask is called
    good = "partition: gpu\ngpus: 2\ncpus: 4\ntime: 90:00\ntasks: {knn: {partition: gone}}"
    ended = salmask("cluster", "check", write_yaml(tmp_path / "mine.yaml", good))
    assert ended.code == 2
    assert "01:30:00" in ended.out
    assert "ok: logistic report: Job 7 to start at" in ended.out
    assert "REFUSED: knn: error: invalid partition specified: gone" in ended.out
    assert "sbatch would refuse jobs of 'mine.yaml'; mend: " in ended.err
    assert "a job starts 30 times at most, and is warned 120 s before its time limit" in ended.out
    unwarned = good.replace("gone", "gpu") + "\nsignal_seconds: 0"
    ended = salmask("cluster", "check", write_yaml(tmp_path / "mine.yaml", unwarned))
    assert ended.code == 0, ended.err
    assert "and is not warned of its time limit" in ended.out
    assert "--gpus-per-node" in (fake / "script").read_text()
    assert "SLURM_CPUS_PER_TASK" not in (fake / "environment").read_text()


@pytest.mark.parametrize(("words", "program"), [(["make", "x"], "sinfo"), (["check", "slurm"], "sbatch")])
def test_where_slurm_is_not_the_mend_is_a_login_node(fake: Path, words: list[str], program: str) -> None:
    fatal = f"{program}: fatal: Could not establish a configuration source"
    (fake / program).write_text(f"#!/bin/sh\necho '{fatal}' >&2; exit 1\n")
    ended = salmask("cluster", *words)
    assert (ended.code, "REFUSED" in ended.out) == (2, False)
    assert ended.err == f"salmask: {fatal}; mend: call this on a login node of the cluster\n"


def test_without_slurms_commands_a_profile_is_told_and_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ended = salmask("cluster", "check", "slurm")
    assert ended.code == 0
    words = "as far as can be told without sbatch, which is not on this machine"
    assert ended.out.endswith(f"\nok: logistic: {words}\nok: report: {words}\n")
    assert salmask("cluster", "check", "local").out.endswith("\nno Slurm: jobs run here (local)\n")
    line = "there is no sinfo on this machine; mend: call this on a login node of the cluster"
    assert refused("cluster", "make", "x") == line


def test_a_slurm_that_does_not_answer_refuses_no_job(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each task used to be told as REFUSED, and the profile as what had to be mended."""
    silent = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"
    (fake / "sbatch").write_text(f"#!/bin/sh\necho '{silent}' >&2; exit 1\n")
    ended = salmask("cluster", "check", "slurm")
    assert (ended.code, "REFUSED" in ended.out) == (2, False)
    assert ended.err == f"salmask: {silent}; mend: try again when Slurm answers\n"
    (fake / "sbatch").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr("slurm.submission.trial.ask", partial(ask, seconds=0.2))
    ended = salmask("cluster", "check", "slurm")
    assert ended.err == "salmask: sbatch did not answer within 0 s; mend: try again when Slurm answers\n"


def test_a_broken_profile_is_one_line(tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "mine.yaml", "time: 0:30")
    line = refused("cluster", "check", path)
    assert line.startswith(f"{path}: time=0:30 is 30 seconds, and the least is a minute; mend: ")


def test_a_first_profile_is_that_of_the_partition_with_gpus(fake: Path, tmp_path: Path) -> None:
    ended = salmask("cluster", "make", "first")
    assert ended.code == 0, ended.err
    path = Path(ended.out.splitlines()[0])
    assert path.name == "first.yaml"
    asked = load("first").resources
    assert (asked.partition, asked.gpus, asked.cpus, asked.memory, asked.time) == ("gpu", 1, 16, 112, 1440)
    assert "types: a100, v100, for example `gpus: a100:1`" in path.read_text()
    assert refused("cluster", "make", "first").startswith(f"{path} is there already; mend: ")
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("a file in the place of the folder")
    assert refused("cluster", "make", "first").startswith(f"cannot write {path}: ")
    path.parent.unlink()
    # The command that is suggested next is quoted for the shell.
    assert salmask("cluster", "make", "my first").out.endswith("then salmask cluster check 'my first'\n")
    for name in ("../x", "a\nb", "."):
        assert "cannot be a profile's name" in refused("cluster", "make", name)
    assert "a word is empty; mend: " in refused("cluster", "make", "")


def test_a_first_profile_of_a_partition_by_name(tmp_path: Path) -> None:
    kinds = parse_sinfo(SINFO)
    assert [(kind.name, kind.default, kind.limit, kind.gpus) for kind in kinds] == [
        *[("cpu", True, 2880, 0), ("gpu", False, 1440, 4)],
        *[("gpu", False, 1440, 2), ("old", False, 0, 2)],
    ]
    # One odd partition does not hinder a profile for another one.
    for limit, own in (("0:30", None), ("NOT_SET", None), ("10000-00:00:00", 0), ("99-23:00:00", 143_940)):
        read = parse_sinfo(f"{SINFO}\nodd|{limit}|16|64000|gpu:2\n")
        assert read[: len(kinds)] == kinds
        assert [kind.limit for kind in read[len(kinds) :]] == ([] if own is None else [own])
    asked = load(write_yaml(tmp_path / "old.yaml", first_profile(kinds, "old"))).resources
    assert (asked.partition, asked.cpus, asked.memory, asked.time) == ("old", 4, 28, 1440)
    for limit in (1, 2):  # such a profile is accepted too
        short = first_profile([replace(kinds[1], limit=limit)])
        assert load(write_yaml(tmp_path / "short.yaml", short)).resources.time == limit
    with pytest.raises(UserError, match="no partition 'odl'; mend: did you mean 'old'"):
        first_profile(kinds, "odl")
    with pytest.raises(UserError, match="sinfo lists no GPUs in partition 'cpu'"):
        first_profile(kinds, "cpu")
