"""`salmask doctor` says what is wrong with a machine, its weights and its data."""

import errno
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training_samples import salmask

from repro.data.catalogue import DATASETS
from repro.doctor import machine, packages
from repro.doctor.diagnosis import Diagnosis
from repro.doctor.machine import FREE_GIB, check_data, check_devices
from repro.errors import UserError


def test_doctor_finds_nothing_wrong_with_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = json.loads(salmask("doctor", "--json").out)
    assert all(set(finding) == {"check", "verdict", "found", "mend"} for finding in findings)
    weights = [finding for finding in findings if finding["check"].startswith("weights of ")]
    assert [(finding["check"], finding["verdict"]) for finding in weights][:1] == [
        ("weights of efficientnet-lite0", "ok")
    ]
    assert "wrong" not in {finding["verdict"] for finding in weights}
    assert {f"data {name}" for name in DATASETS} <= {finding["check"] for finding in findings}


def test_doctor_fails_where_a_data_set_that_is_asked_for_is_not_there(tmp_path: Path) -> None:
    ended = salmask("doctor", "--data", "imagenet100", "--root", str(tmp_path / "none"), "--json")
    assert ended.code == 1
    (finding,) = [finding for finding in json.loads(ended.out) if finding["check"] == "data imagenet100"]
    assert finding["verdict"] == "wrong"
    assert str(tmp_path / "none") in finding["found"]
    ended = salmask("doctor", "--data", "imagenet", "--json")
    assert ended.code == 1
    assert "did you mean 'imagenet100'?" in json.loads(ended.out)[-1]["mend"]


@pytest.mark.parametrize(
    ("dataset", "found"),
    [
        ("imagenet100", "train: No such file or directory"),
        ("caltech101", "holds no caltech101/101_ObjectCategories"),
        ("flowers102", "holds no flowers-102/jpg"),
        ("voc07+12", "holds neither VOCdevkit nor VOC2007 and VOC2012"),
        ("coco", "holds neither annotations/ nor train2017/, val2017/"),
        ("folder", "train: No such file or directory"),
    ],
)
def test_doctor_finds_a_root_wrong_that_cannot_serve(tmp_path: Path, dataset: str, found: str) -> None:
    (tmp_path / "other").touch()
    diagnosis = check_data(dataset, tmp_path, needed=True)
    assert diagnosis.verdict == "wrong"
    assert found in diagnosis.found
    assert diagnosis.mend
    assert check_data(dataset, tmp_path, needed=False).verdict == "ok"


@pytest.mark.parametrize(
    ("cores", "threads", "found", "advised"),
    [
        (2, 2, "2 CPU cores, 2 threads", False),
        (2, 64, "2 CPU cores, 64 threads", True),
        (2, 1, "2 CPU cores, 1 thread", False),
        (1, 1, "1 CPU core, 1 thread", False),
    ],
)
def test_more_threads_than_a_container_has_cores_are_advised_against(
    cores: int, threads: int, found: str, advised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(machine, "bf16_is_slow", lambda: False)
    (device,) = check_devices()
    assert device.found == f"no GPU; {found}"
    assert device.mend.startswith("OMP_NUM_THREADS=2 before each command") == advised


def test_each_gpu_is_told_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [SimpleNamespace(name=f"GPU {number}", total_memory=(number + 1) * 80 * 2**30) for number in range(2)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", gpus.__getitem__)
    told = [(device.check, device.verdict, device.found) for device in check_devices()]
    assert told == [("device 0", "ok", "GPU 0, 80 GiB"), ("device 1", "ok", "GPU 1, 160 GiB")]


@pytest.mark.parametrize(("free", "verdict"), [(FREE_GIB * 2**30, "ok"), (FREE_GIB * 2**30 - 1, "wrong")])
def test_a_disk_that_is_nearly_full_is_wrong(free: int, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    mend = "" if verdict == "ok" else f"free at least {FREE_GIB} GiB, or use --out elsewhere"
    assert machine._disk() == Diagnosis("disk", verdict, f"{FREE_GIB} GiB free here", mend)


@pytest.mark.parametrize("error", [UserError("it is torn", mend="download"), OSError(errno.EIO, "it is torn")])
def test_damaged_weights_of_the_installation_want_another_installation(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: str) -> None:
        raise error

    monkeypatch.setattr(machine, "build_localizer", damaged)
    finding = machine._installed_weights()
    assert (finding.verdict, finding.mend) == ("wrong", "make setup")
    assert finding.found == ("it is torn" if isinstance(error, UserError) else "[Errno 5] it is torn")


def test_a_cpu_without_instructions_for_bf16_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "bf16_is_slow", lambda: True)
    device = next(check_devices())
    assert device.found.endswith(", slow in bf16")
    assert "optimization.precision=fp32 with sweeps that have bf16; for the paper's scale" in device.mend


def test_doctor_names_the_packages_that_are_not_there_instead_of_failing_by_them() -> None:
    # In a new process, in which nothing is imported yet. None in place of a module makes its import fail.
    code = (
        "import sys; from repro import cli; from repro.doctor.packages import PACKAGES\n"
        "sys.modules.update(dict.fromkeys([*PACKAGES, 'detectron2']))\n"
        "sys.argv[1:] = ['doctor', '--json']; cli.main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "")
    findings = {finding["check"]: finding for finding in json.loads(ended.stdout)}
    assert {check for check, finding in findings.items() if finding["verdict"] == "wrong"} == set(packages.PACKAGES)
    assert findings["torch"]["mend"] == "make setup"
    assert findings["detectron2"]["verdict"] == "note"
    assert "not checked" in findings["all else"]["found"]


@pytest.mark.parametrize("kind", ["OSError", "RuntimeError", "ImportError"])
def test_a_package_that_fails_as_it_is_loaded_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "broken_package.py").write_text(f"raise {kind}('no libcudart')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(packages, "PACKAGES", {"broken_package": "pip"})
    finding, *_ = packages.check_packages_first(list)
    assert finding.verdict == "wrong"
    assert finding.found == "cannot be imported: no libcudart"


def test_without_a_detectron2_that_loads_all_but_detection_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "detectron2.py").write_text("raise ImportError('undefined symbol')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "detectron2", raising=False)
    only = "only detection and segmentation need it"
    broken = Diagnosis("detectron2", "note", f"cannot be imported: undefined symbol; {only}", "make setup")
    assert packages._detectron2() == broken
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert packages._detectron2() == Diagnosis("detectron2", "note", f"not installed; {only}", "make setup")
