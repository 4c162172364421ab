"""The weights that localizers download: which a run needs, where they are kept, and how missing ones are told."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from torchvision.models import get_model_weights
from training_samples import TINY, refused, salmask, tiny
from transfer_samples import make_caltech, recognise_miniatures
from yaml_samples import write_yaml

import repro.doctor.weights
import repro.saliency.networks
from baselines import TABLE1, resolve
from repro.doctor.diagnosis import Diagnosis
from repro.doctor.needs import Needs
from repro.doctor.weights import check_weights
from repro.errors import UserError
from repro.filesystem.paths import CACHE_VARIABLE
from repro.saliency.networks import build_localizer
from repro.settings import localizer_weights
from repro.settings.localizer_weights import (
    FILES_OF_RESNET50,
    PAPERS_WEIGHTS,
    LocalizerWeights,
    hub_folder,
    torchs_folder,
    weights_of,
)
from slurm.jobs.calls import read_call, write_calls
from slurm.jobs.node_probe import NodeProbe
from slurm.planning.needs import missing_weights, needs_of_sweep
from slurm.planning.sweep import Part, Sweep, expand

CONTENT = b"as if they were weights"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a name for weights whose file is known by its hash, as torchvision's are."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    name = f"resnet50-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
    monkeypatch.setitem(localizer_weights.FILES_OF_RESNET50, "IMAGENET1K_V2", name)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a local server, as if the weights came from there."""

    class Heads(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Heads) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}/file.pth"
        serving.shutdown()


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed port as address: a node without a network."""
    monkeypatch.setattr(repro.doctor.weights, "_address", lambda _: "http://127.0.0.1:1/file.pth")


def test_files_and_folders_are_those_of_torchvision_and_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    members = get_model_weights("resnet50").__members__
    assert {name: Path(member.value.url).name for name, member in members.items()} == FILES_OF_RESNET50
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    ask = [sys.executable, "-c", "import huggingface_hub.constants as c; print(c.HF_HUB_CACHE)"]  # read at its import
    assert str(hub_folder()) == subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for variables in ({}, {"XDG_CACHE_HOME": "/xdg"}, {"TORCH_HOME": "~/torch"}):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert torchs_folder() == Path(torch.hub.get_dir())


def test_only_rows_that_look_at_a_localizer_need_its_weights() -> None:
    needing = {method for method in TABLE1 if weights_of(resolve(method)) == PAPERS_WEIGHTS}
    assert needing == {
        f"{framework}+ours-{kind}" for framework in ("mocov2", "simclr") for kind in ("hp", "blur", "mean")
    }
    assert {weights_of(resolve(method)) for method in TABLE1 if method not in needing} == {None}
    for settings, weights in (
        ({"network": "efficientnet-lite0"}, None),
        ({"weights": "random"}, None),
        ({"source": "centre"}, None),
        ({"network": "timm/resnet18"}, LocalizerWeights("timm/resnet18")),
        (
            {"network": "checkpoint", "weights": "a/backbone.pth", "sha256": "0" * 64},
            LocalizerWeights("checkpoint", str(Path("a/backbone.pth").resolve())),
        ),
    ):
        assert weights_of(resolve("mocov2+ours-hp", {"localizer": settings})) == weights


def test_a_timm_models_file_is_that_of_its_tag(cache: Path) -> None:
    snapshot = cache / "models--timm--resnet18.a1_in1k" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    assert LocalizerWeights("timm/resnet18").file() is None  # a broken download leaves only the folder
    (snapshot / "model.safetensors").write_bytes(CONTENT)
    assert LocalizerWeights("timm/resnet18").file() == snapshot / "model.safetensors"
    assert check_weights(LocalizerWeights("timm/resnet18"), needed=True).verdict == "ok"
    assert LocalizerWeights("timm/resnet18.fb_swsl_ig1b_ft_in1k").file() is None
    assert LocalizerWeights("timm/resnet1").file() is None
    unknown = check_weights(LocalizerWeights("timm/resnet18.bogus"), needed=True)
    assert (unknown.verdict, unknown.found) == ("wrong", "Invalid pretrained tag (bogus) for resnet18.")


@pytest.mark.parametrize(
    ("weights", "command"),
    [
        (PAPERS_WEIGHTS, "salmask data weights"),
        (LocalizerWeights("resnet50", "IMAGENET1K_V1"), "salmask data weights localizer.weights=IMAGENET1K_V1"),
        (LocalizerWeights("timm/resnet18"), "salmask data weights localizer.network=timm/resnet18"),
        (LocalizerWeights("checkpoint", "mine.pth"), ""),
    ],
)
def test_weights_name_the_command_that_downloads_them(weights: LocalizerWeights, command: str) -> None:
    assert weights.fetched_by == command


@pytest.mark.parametrize(
    ("weights", "found", "mend"),
    [
        (
            LocalizerWeights("resnet50", "IMAGENET1K_V3"),
            "localizer.weights=IMAGENET1K_V3 is unknown for resnet50",
            "one of IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT",
        ),
        (
            LocalizerWeights("timm/resnet1"),
            "timm/resnet1 has no weights on the Hub",
            "localizer.weights=random, or another",
        ),
    ],
)
def test_weights_that_nobody_has_are_wrong(weights: LocalizerWeights, found: str, mend: str) -> None:
    assert check_weights(weights, needed=True) == Diagnosis(str(weights), "wrong", found, mend)


def test_weights_come_from_where_torchvision_and_the_hub_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    address = repro.doctor.weights._address
    assert address(PAPERS_WEIGHTS) == "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"
    tagged, path = LocalizerWeights("timm/resnet18.a1_in1k"), "timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert address(tagged) == f"https://huggingface.co/{path}"
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.org")
    assert address(tagged) == f"https://hub.example.org/{path}"


def test_an_empty_cache_is_wrong_where_nothing_can_be_downloaded_and_noted_where_it_can(
    cache: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch)
    finding = check_weights(PAPERS_WEIGHTS, needed=True)
    assert (finding.check, finding.verdict) == ("weights of resnet50 (IMAGENET1K_V2)", "wrong")
    assert finding.found.startswith("not here, and cannot be downloaded from here (")
    assert finding.mend.startswith("salmask data weights on a machine with a network, $SALMASK_CACHE naming ")
    assert check_weights(PAPERS_WEIGHTS, needed=False).verdict == "note"
    monkeypatch.setattr(repro.doctor.weights, "_address", lambda _: server)
    assert check_weights(PAPERS_WEIGHTS, needed=True).verdict == "note"
    missing = check_weights(LocalizerWeights("checkpoint", "/nowhere/backbone.pth"), needed=True)
    assert (missing.check, missing.verdict) == ("localizer /nowhere/backbone.pth", "wrong")


def test_weights_from_elsewhere_are_checked_and_put_where_runs_look(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch)
    source = tmp_path / "downloaded.pth"
    source.write_bytes(CONTENT[:-1])
    assert "is not resnet50-" in refused("data", "weights", "--from", str(source))
    # A shell's `<(curl …)` can be read only once: after a comparison, an empty file would be copied.
    os.mkfifo(pipe := tmp_path / "pipe")
    assert "is not a regular file" in refused("data", "weights", "--from", str(pipe))
    assert not cache.exists()
    gone = refused("data", "weights", "--from", str(tmp_path / "gone.pth"))
    assert gone == f"{tmp_path}/gone.pth: cannot be copied (No such file or directory); mend: name the downloaded file"
    source.write_bytes(CONTENT)
    name = localizer_weights.FILES_OF_RESNET50["IMAGENET1K_V2"]
    cache.parent.mkdir(exist_ok=True)
    cache.touch()  # the target cannot be written; the source can be read
    line = refused("data", "weights", "--from", str(source))
    assert line.startswith(f"cannot write {cache / 'checkpoints' / name}: ")
    cache.unlink()
    told = json.loads(salmask("data", "weights", "--from", str(source), "--json").out)
    assert told == {"localizer": "resnet50", "file": str(cache / "checkpoints" / name), "how": f"copied from {source}"}
    assert Path(told["file"]).read_bytes() == CONTENT
    assert json.loads(salmask("data", "weights", "--json").out)["how"] == "was there"
    assert check_weights(PAPERS_WEIGHTS, needed=True).verdict == "ok"
    Path(told["file"]).write_bytes(CONTENT[:5])
    assert "is cut off, or another file" in refused("data", "weights")
    damaged = check_weights(PAPERS_WEIGHTS, needed=True)
    assert damaged.verdict == "wrong"
    assert damaged.mend.startswith("remove it; salmask data weights ")
    monkeypatch.setattr(LocalizerWeights, "file", lambda _: tmp_path)
    unreadable = check_weights(PAPERS_WEIGHTS, needed=True)
    assert (unreadable.verdict, unreadable.found) == (
        "wrong",
        f"cannot be read: [Errno 21] Is a directory: '{tmp_path}'",
    )


def test_weights_that_are_not_there_are_downloaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = cache / "checkpoints" / localizer_weights.FILES_OF_RESNET50["IMAGENET1K_V2"]

    def download(network: str, weights: str) -> None:
        assert (network, weights) == ("resnet50", "IMAGENET1K_V2")
        file.parent.mkdir(parents=True)
        file.write_bytes(CONTENT)

    monkeypatch.setattr(repro.saliency.networks, "build_localizer", download)
    told = json.loads(salmask("data", "weights", "--json").out)
    assert told == {"localizer": "resnet50", "file": str(file), "how": "downloaded"}


def test_what_needs_no_weights_or_none_that_can_be_fetched_is_said(cache: Path, tmp_path: Path) -> None:
    for words in (["localizer.network=efficientnet-lite0"], ["localizer.weights=random"]):
        assert "needs no file" in salmask("data", "weights", *words).out
        assert "needs no file; mend: leave it out" in refused("data", "weights", *words, "--from", "x.pth")
    assert "has no effect on weights" in refused("data", "weights", "moco.queue=16")
    assert "is a file of your own" in refused(
        "data", "weights", "localizer.network=checkpoint", f"localizer.weights={tmp_path / 'b.pth'}"
    )
    assert "did you mean 'IMAGENET1K_V2'" in refused("data", "weights", "localizer.weights=IMAGENET1K_V3")
    assert "--from takes the file of ResNet-50" in refused(
        "data", "weights", "localizer.network=timm/resnet18", "--from", "x.pth"
    )
    assert not cache.exists()


def test_weights_are_looked_for_before_a_launch(cache: Path, tmp_path: Path) -> None:
    part = Part(("mocov2", "mocov2+ours-hp", "mocov2+ours-mean"), (0, 1), ("linear",))
    graph = expand(Sweep("mine", (part,)), tmp_path / "runs", resolve, {})
    (line,) = missing_weights(graph, set())
    assert line.startswith("the weights of resnet50 (IMAGENET1K_V2) are not here, and jobs fail at their start where ")
    assert line.endswith("before: salmask data weights")
    (cache / "checkpoints").mkdir(parents=True)
    (cache / "checkpoints" / FILES_OF_RESNET50["IMAGENET1K_V2"]).write_bytes(CONTENT)
    assert missing_weights(graph, set()) == []
    changes = {"localizer": {"network": "checkpoint", "weights": "/nowhere/backbone.pth", "sha256": "0" * 64}}
    own = expand(Sweep("mine", (part,)), tmp_path / "runs", lambda name, *_, **__: resolve(name, changes), {})
    with pytest.raises(UserError, match=r"localizer /nowhere/backbone\.pth does not exist; mend: localizer\.weights="):
        missing_weights(own, set())
    done = {own.key(job) for job in own.jobs if job.task == "pretrain"}  # evaluations read no localizer
    assert missing_weights(own, done) == []


def test_a_sweeps_needs_are_its_data_sets_and_localizers() -> None:
    needs = needs_of_sweep("table1", resolve, root="/data/imagenet")
    assert needs.data == (("imagenet100", "/data/imagenet"), ("caltech101", ""), ("flowers102", ""))
    assert needs.weights == (PAPERS_WEIGHTS,)
    assert needs_of_sweep("demo", resolve).weights == ()


def test_the_job_on_a_node_gets_the_needs(tmp_path: Path) -> None:
    needs = Needs((("imagenet100", "/data"), ("caltech101", "")), (PAPERS_WEIGHTS, LocalizerWeights("timm/resnet18")))
    call = NodeProbe(tmp_path / "runs", tmp_path / "report.json", 1, 2, "a:b", needs)
    write_calls(tmp_path / "calls", {0: call})
    assert read_call(tmp_path / "calls", 0) == call


def test_the_doctor_misses_what_a_sweep_needs(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    monkeypatch.setenv("SALMASK_DATA", str(tmp_path))
    recognise_miniatures(monkeypatch)
    make_caltech(tmp_path / "caltech101")
    ended = salmask("doctor", "--sweep", "table1", "--root", str(tmp_path / "gone"), "--json")
    assert ended.code == 1
    findings = {finding["check"]: finding["verdict"] for finding in json.loads(ended.out)}
    names = ("data imagenet100", "data caltech101", "data flowers102", "weights of resnet50 (IMAGENET1K_V2)")
    assert [findings[name] for name in names] == ["wrong", "ok", "wrong", "wrong"]
    settings = {**TINY, "localizer.network": "efficientnet-lite0"}
    mine = write_yaml(tmp_path / "mine.yaml", {"methods": ["mocov2+ours-hp"], "seeds": [0], "settings": settings})
    findings = {row["check"]: row["verdict"] for row in json.loads(salmask("doctor", "--sweep", mine, "--json").out)}
    assert findings["data scenes"] == "ok"
    assert not [check for check in findings if check.startswith("weights of resnet50")]
    assert "none is named; mend: add --data NAME or --sweep NAME" in refused("doctor", "--root", str(tmp_path))


def test_the_localizer_reads_what_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    targets = []

    def download(url: str, target: str, *_: object, **__: object) -> None:
        targets.append(Path(target))
        torch.save(torch.nn.Module().state_dict(), target)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(UserError, match="cannot be downloaded"):  # the stand-in's file is no ResNet
        build_localizer("resnet50", "IMAGENET1K_V2")
    assert targets == [torchs_folder() / "checkpoints" / FILES_OF_RESNET50["IMAGENET1K_V2"]]
    assert targets[0] == PAPERS_WEIGHTS.file()
    assert weights_of(tiny("mocov2")) is None
