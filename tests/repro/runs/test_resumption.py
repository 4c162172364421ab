"""How a task that is started again goes on is told as its files make it do."""

from pathlib import Path

import pytest

from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.resumption import goes_on, require_pretrained


@pytest.mark.parametrize(
    ("file", "task", "others"),
    [
        ("checkpoints/step_00000010.pth", "pretrain", ("linear", "finetune", "logistic", "report")),
        ("probes/cifar10-linear-moco-v1/checkpoints/step_00000010.pth", "linear", ("pretrain", "linear@flowers")),
        ("probes/flowers-linear-v1/checkpoints/step_00000010.pth", "linear@flowers", ("linear@cifar10",)),
        ("finetune/cifar10-semi-10pct-v1/checkpoints/step_00000010.pth", "semi-10", ("semi-1", "finetune")),
        ("detection/voc07+12-x/trial0/step_00000010.pth", "voc07+12", ("pretrain", "linear")),
        ("logistic/cifar10-logreg-v2-split0.npz", "logistic@cifar10", ("knn", "knn@cifar10", "logistic@flowers")),
    ],
)
def test_a_task_goes_on_from_its_own_checkpoint(tmp_path: Path, file: str, task: str, others: tuple[str, ...]) -> None:
    folder = RunFolder(tmp_path)
    assert goes_on(folder, task) == "begins anew"
    place = tmp_path / file
    place.parent.mkdir(parents=True)
    (place.parent / f".{place.name}.half-written").touch()
    assert goes_on(folder, task) == "begins anew"
    place.touch()
    assert goes_on(folder, task) == "resumes from its last checkpoint"
    assert {goes_on(folder, other) for other in others} == {"begins anew"}


def test_a_run_without_a_backbone_is_refused_with_what_to_do_about_its_pretraining(tmp_path: Path) -> None:
    """An interrupted one was told to begin: `salmask pretrain first`."""

    def mend() -> str:
        with pytest.raises(UserError, match=r"has no backbone\.pth: its pretraining is not finished") as caught:
            require_pretrained(folder)
        return caught.value.mend

    folder = RunFolder(tmp_path)
    assert mend() == "salmask pretrain first"
    folder.set_status("interrupted")
    assert mend() == "repeat its command, which begins anew"
    with folder.attempt("pretrain"):
        assert mend() == "wait for it"
        folder.checkpoints.mkdir()
    folder.set_status("interrupted")
    (folder.checkpoints / "step_00000010.pth").touch()
    assert mend() == "repeat its command, which resumes from its last checkpoint"
    folder.backbone.touch()
    require_pretrained(folder)


def test_of_a_recorded_run_it_is_not_said_that_its_pretraining_is_not_finished(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.attempt("pretrain"):
        pass
    with pytest.raises(UserError) as caught:
        require_pretrained(folder)
    assert caught.value.what.endswith("has no backbone.pth: its pretraining is done, but the file is not kept here")
    assert caught.value.mend == "copy the file here, or repeat its command, which begins anew"
