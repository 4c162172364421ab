import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from training_samples import CPU, files_below

from repro.backbones.backbone import load_backbone, save_backbone
from repro.backbones.checkpoint import read_checkpoint, write_checkpoint
from repro.backbones.weights import not_finite
from repro.contrastive.encoders import build_encoder
from repro.errors import UserError
from repro.filesystem.files import write_atomically
from repro.saliency.networks import build_localizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "backbone.pth"
    torch.manual_seed(0)
    state = build_encoder("resnet18", 16).state_dict()
    save_backbone(path, state, arch="resnet18", input_filter="none", run_id="abc")
    return path


def test_a_backbone_is_the_encoder_without_its_head(saved: Path) -> None:
    torch.manual_seed(0)
    encoder = build_encoder("resnet18", 16).eval()
    backbone = load_backbone(saved, arch="resnet18")
    assert (backbone.arch, backbone.input_filter, backbone.run_id) == ("resnet18", "none", "abc")
    assert (backbone.features, backbone.width) == (512, 64)
    encoder.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(backbone.network.eval()(images), encoder(images))


def test_the_file_has_torchvisions_keys_and_no_head(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    assert set(content) == {"format", "arch", "input_filter", "run_id", "state_dict"}
    assert "layer4.1.bn2.running_var" in content["state_dict"]
    assert not [name for name in content["state_dict"] if name.startswith("fc.")]
    assert all(tensor.device == CPU for tensor in content["state_dict"].values())


def test_tensors_that_are_not_finite_are_named() -> None:
    nan, inf = float("nan"), float("inf")
    counters = {"steps": torch.tensor(3), "nothing": torch.zeros(0), "arch": "resnet18"}
    state = {"a": torch.ones(2, 2), "b": torch.tensor([[1, nan]]), "c": torch.tensor([-inf, 1]), **counters}
    assert not_finite({**state, "d": torch.tensor(inf, dtype=torch.bfloat16)}) == ["b", "c", "d"]
    assert not_finite({"a": state["a"], **counters}) == not_finite(counters) == []


def test_another_architecture_is_refused_with_the_mend(saved: Path) -> None:
    with pytest.raises(UserError, match=r"holds a resnet18, not a resnet50; mend: encoder.arch=resnet18"):
        load_backbone(saved, arch="resnet50")


def test_a_narrow_backbone_carries_its_width(tmp_path: Path) -> None:
    encoder = build_encoder("resnet18", 16, 8).eval()
    path = tmp_path / "narrow.pth"
    save_backbone(path, encoder.state_dict(), arch="resnet18", input_filter="none", run_id="abc", width=8)
    backbone = load_backbone(path)
    assert (backbone.arch, backbone.features, backbone.width) == ("resnet18", 64, 8)
    encoder.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(backbone.network.eval()(images), encoder(images))
    # Read with another width than it has, the file is refused, not half loaded.
    with pytest.raises(UserError, match=r"does not fit a resnet18: size mismatch for conv1.weight"):
        load_backbone(broken(path, tmp_path / "x.pth", width=64))
    with pytest.raises(UserError, match=r"size mismatch for conv1.weight, \[8, 3, 7, 7\] at width 1099511627776"):
        load_backbone(broken(path, tmp_path / "x.pth", width=2**40))


def broken(saved: Path, path: Path, **changes: Any) -> Path:
    torch.save({**torch.load(saved, weights_only=True), **changes}, path)
    return path


def test_weights_that_do_not_fit_the_named_architecture_are_refused(saved: Path, tmp_path: Path) -> None:
    path = broken(saved, tmp_path / "x.pth", arch="resnet34")
    with pytest.raises(UserError, match=r"does not fit a resnet34: Missing key") as caught:
        load_backbone(path)
    assert len(str(caught.value).splitlines()) == 1


def test_other_files_of_torch_are_no_backbones(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"is not a salmask backbone; mend: give .* salmask eval --checkpoint FILE"):
        load_backbone(tmp_path / "x.pth")
    torch.save(torch.zeros(3), tmp_path / "y.pth")
    with pytest.raises(UserError, match="holds a Tensor, not a checkpoint; mend: "):
        read_checkpoint(tmp_path / "y.pth")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.999])
def test_a_torn_checkpoint_is_one_clear_line(saved: Path, tmp_path: Path, share: float) -> None:
    content = saved.read_bytes()
    (tmp_path / "x.pth").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"x.pth cannot be read .*it is torn, or not a checkpoint; mend: ") as caught:
        read_checkpoint(tmp_path / "x.pth")
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.pth does not exist; mend: check the path"):
        read_checkpoint(tmp_path / "none.pth")


def test_a_file_that_may_not_be_read_is_not_called_damaged(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"backbone.pth cannot be read: Permission denied; mend: check the path"):
        read_checkpoint(saved)


@pytest.mark.parametrize(
    "shortage",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:114] . DefaultCPUAllocator: can't allocate")],
)
def test_a_file_that_memory_had_no_room_for_is_not_called_torn(
    saved: Path, monkeypatch: pytest.MonkeyPatch, shortage: Exception
) -> None:
    """A training would have resumed from the checkpoint before, and removed the newest one."""

    def fail(*_: Any, **__: Any) -> None:
        raise shortage

    monkeypatch.setattr("torch.load", fail)
    with pytest.raises(type(shortage)) as caught:
        read_checkpoint(saved)
    assert caught.value is shortage
    monkeypatch.setattr("repro.saliency.networks.get_model", fail)
    monkeypatch.setattr("timm.create_model", fail)
    for network in ("resnet50", "timm/resnet18"):
        with pytest.raises(type(shortage)):  # not the error that its weights cannot be downloaded
            build_localizer(network, "IMAGENET1K_V2" if network == "resnet50" else "pretrained")


class Payload:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.target,)


def test_a_checkpoint_that_carries_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"format": 1, "state_dict": Payload(str(tmp_path / "was-run"))}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="cannot be read"):
        load_backbone(tmp_path / "x.pth")
    assert files_below(tmp_path) == {"x.pth"}
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), RuntimeError("write failed\nmore"), RuntimeError()]
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, failure: Exception) -> None:
    path = tmp_path / "kept"
    path.write_text("old")

    def write(file: IO[bytes]) -> None:
        file.write(b"half of the n")
        raise failure

    with pytest.raises(UserError, match=r"cannot write .*kept: .*; mend: ") as caught:
        write_atomically(path, write)
    assert len(str(caught.value).splitlines()) == 1
    assert ("free some space" in str(caught.value)) == isinstance(failure, OSError)
    assert path.read_text() == "old"
    assert files_below(tmp_path) == {"kept"}


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "below" / "kept"
    write_atomically(path, lambda file: file.write(b"old"))

    def write(file: IO[bytes]) -> None:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"

    write_atomically(path, write)
    assert path.read_text() == "new"
    assert files_below(tmp_path) == {"below/kept"}


@pytest.mark.parametrize("interruption", [SystemExit(140), KeyboardInterrupt()], ids=["a signal", "Ctrl-C"])
def test_an_interruption_within_a_file_is_one_and_no_failed_write(tmp_path: Path, interruption: BaseException) -> None:
    """torch still closes the archive that it was writing, and raises an error of its own for what is missing."""

    class Interrupted:
        """A file whose writer is interrupted after `bytes_left` bytes."""

        def __init__(self, file: IO[bytes], bytes_left: int) -> None:
            self.file, self.bytes_left = file, bytes_left

        def write(self, data: Any) -> int:
            if self.bytes_left >= 0:
                self.bytes_left -= len(data)
                if self.bytes_left < 0:
                    raise interruption
            return self.file.write(data)

        def flush(self) -> None:
            self.file.flush()

    path = tmp_path / "step.pth"
    write_atomically(path, lambda file: file.write(b"old"))
    content = {"first": torch.zeros(10_000), "second": torch.zeros(10_000)}
    with pytest.raises(type(interruption)) as caught:
        write_atomically(path, lambda file: torch.save(content, Interrupted(file, 60_000)))
    assert caught.value is interruption
    assert path.read_bytes() == b"old"
    assert files_below(tmp_path) == {"step.pth"}


def test_an_interruption_that_was_taken_for_a_fault_twice_is_still_one(tmp_path: Path) -> None:
    def write(_: IO[bytes]) -> None:
        try:
            try:
                raise KeyboardInterrupt
            except BaseException as asked:
                raise ValueError("an archive is not whole") from asked
        except ValueError as error:
            raise RuntimeError("cannot write") from error

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "kept", write)
    assert files_below(tmp_path) == set()


INTERRUPTED = """
import sys
from pathlib import Path
import torch
from torch import serialization
from repro.backbones.checkpoint import write_checkpoint

class Interrupted(serialization._open_zipfile_writer_buffer):
    def __init__(self, file):
        super().__init__(file)
        if at == "its beginning":
            raise KeyboardInterrupt

    def __exit__(self, *_):
        raise KeyboardInterrupt

serialization._open_zipfile_writer_buffer = Interrupted
for at in ("its beginning", "its end"):
    try:
        write_checkpoint(Path(sys.argv[1]), {"weights": torch.zeros(10_000)})
    except KeyboardInterrupt:
        print("interrupted at", at)
"""


@pytest.mark.slow  # a process of its own, which imports torch
def test_an_interruption_between_an_archive_and_its_end_does_not_end_the_process(tmp_path: Path) -> None:
    path = tmp_path / "step.pth"
    write_checkpoint(path, {"weights": torch.ones(1)})
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED, str(path)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "interrupted at its beginning\ninterrupted at its end\n"
    assert read_checkpoint(path) == {"weights": torch.ones(1)}
    assert files_below(tmp_path) == {"step.pth"}
