import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from image_samples import BAD_IMAGES, bad_image, write_image
from PIL import ExifTags, Image
from typer.testing import CliRunner

from repro.data.catalogue import DATASETS, Dataset
from repro.data.commands import app
from repro.data.folders import FolderImages
from repro.data.imagenet import class_list
from repro.data.images import decode, inspect
from repro.data.roots import config_file, find_root
from repro.data.verification import files
from repro.data.verification.checks import verify
from repro.errors import UserError


def test_a_whole_folder_has_no_problems(folder_root: Path) -> None:
    report = verify("folder", folder_root, workers=1)
    assert report.ok
    assert report.counts == {
        "train": {"ant": 4, "mole": 4, "zebra": 4},
        "val": {"ant": 2, "mole": 2, "zebra": 2},
    }
    assert (report.total("train"), report.total("val"), report.warnings) == (12, 6, [])


def test_verify_reports_every_problem_at_once(folder_root: Path) -> None:
    bad = {what: bad_image(folder_root / "train/ant", what) for what in BAD_IMAGES}
    (folder_root / "train/hollow").mkdir()
    (folder_root / "train/zebra/dangling.png").symlink_to(folder_root / "nothing.png")
    copied = folder_root / "val/ant/copy.png"
    copied.write_bytes((folder_root / "train/zebra/1.png").read_bytes())
    linked = folder_root / "val/mole/link.png"
    linked.symlink_to(folder_root / "train/mole/2.png")
    write_image(folder_root / "val/newt/0.png", 70)
    report = verify("folder", folder_root, workers=1)
    problems = {(problem.kind, problem.path) for problem in report.problems}
    assert problems == {
        *((kind, str(bad[what])) for what, (kind, _) in BAD_IMAGES.items()),
        ("empty-class", str(folder_root / "train/hollow")),
        ("class-lists-differ", str(folder_root / "val/hollow")),
        ("class-lists-differ", str(folder_root / "train/newt")),
        ("unreadable", str(folder_root / "train/zebra/dangling.png")),
        ("overlap", str(copied)),
        ("overlap", str(linked)),
    }
    assert len(report.problems) == len(problems)
    messages = {problem.path: problem.message for problem in report.problems}
    assert messages[str(copied)] == f"has the same content as {folder_root / 'train/zebra/1.png'}"
    assert messages[str(linked)] == f"is the same file as {folder_root / 'train/mole/2.png'}"
    assert report.counts["train"]["ant"] == 4 + len(BAD_IMAGES)


def test_one_image_in_two_classes_is_told(folder_root: Path) -> None:
    ant, mole, zebra = (folder_root / f"train/{name}" for name in ("ant", "mole", "zebra"))
    (mole / "copy.png").write_bytes((ant / "0.png").read_bytes())
    (zebra / "link.png").hardlink_to(ant / "1.png")
    (ant / "again.png").write_bytes((ant / "2.png").read_bytes())  # in one class: may be meant
    report = verify("folder", folder_root, workers=1)
    assert report.ok
    pairs = f"{mole}/copy.png is {ant}/0.png, {zebra}/link.png is {ant}/1.png"
    assert report.warnings == [f"train: images of two classes have the same content: 2 ({pairs})"]


def test_of_hundreds_of_gigabytes_only_what_may_be_a_copy_is_read(
    folder_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {  # sizes that no other file has
        "train/ant/copied": b"a" * 5000,
        "train/mole/copied": b"a" * 5000,
        "train/ant/late": b"b" * 6000,
        "train/mole/late": b"b" * 5999 + b"c",  # begins like the one above
        "train/ant/early": b"d" * 7000,
        "train/zebra/early": b"e" * 7000,
        "train/ant/again": b"f" * 8000,
        "train/ant/below": b"f" * 8000,
        "train/ant/alone": b"g" * 9000,
        "val/ant/shared": b"h" * 9001,
        "train/mole/shared": b"h" * 9001,
        "train/ant/hollow": b"",
        "val/mole/hollow": b"",
    }
    for name, content in contents.items():
        (folder_root / f"{name}.png").write_bytes(content)
    read, digest = set[str](), files._digest

    def recorded(path: str) -> str | OSError:
        read.add(path)
        return digest(path)

    monkeypatch.setattr(files, "_digest", recorded)
    ours = {str(folder_root / f"{name}.png"): name for name in contents}
    report = verify("folder", folder_root, workers=1)
    across = {"train/mole/shared", "val/ant/shared"}
    within = {f"train/{label}/{name}" for label in ("ant", "mole") for name in ("copied", "late")}
    assert {ours[path] for path in read & ours.keys()} == across | within
    (warning,) = report.warnings
    assert warning.endswith(f": 1 ({folder_root}/train/mole/copied.png is {folder_root}/train/ant/copied.png)")
    assert [problem.path for problem in report.problems if problem.kind == "overlap"] == [
        str(folder_root / "val/ant/shared.png")
    ]
    read.clear()
    quick = verify("folder", folder_root, deep=False, workers=1)
    assert {ours[path] for path in read & ours.keys()} == across
    assert quick.warnings == []
    assert isinstance(digest(str(folder_root)), IsADirectoryError)  # the error is kept, while the other threads go on


def test_a_file_that_cannot_be_compared_is_unreadable(folder_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = folder_root / "val/ant/copy.png"
    copied.write_bytes((folder_root / "train/zebra/1.png").read_bytes())
    monkeypatch.setattr(files, "_digest", lambda path: PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    problems = verify("folder", folder_root, deep=False, workers=1).problems
    assert ("unreadable", str(copied), "Permission denied") in [(p.kind, p.path, p.message) for p in problems]
    assert files._beginning(str(folder_root)) == b""  # decoding reports what cannot be read


def test_a_broken_link_is_named_as_one(folder_root: Path) -> None:
    link = folder_root / "train/ant/gone.png"
    link.symlink_to(folder_root / "nothing.png")
    (problem,) = verify("folder", folder_root, workers=1).problems
    assert (problem.path, problem.message) == (str(link), "a link to nothing")
    with pytest.raises(UserError, match=rf"^{link}: a link to nothing; mend: remove it$"):
        FolderImages(folder_root, "train").fingerprint()


def test_a_pipe_is_no_empty_image(folder_root: Path) -> None:
    os.mkfifo(folder_root / "train/ant/pipe.png")
    (problem,) = verify("folder", folder_root, workers=1).problems
    assert (problem.kind, problem.path) == ("unreadable", str(folder_root / "train/ant/pipe.png"))
    assert problem.message == "not a regular file"


@pytest.mark.parametrize("target", ["again", "..", "../zebra"])
def test_of_links_in_a_circle_the_link_is_named_and_not_the_class_that_holds_it(folder_root: Path, target: str) -> None:
    link = folder_root / "train/ant/again"
    link.symlink_to(target)
    if target == "../zebra":
        (folder_root / "train/zebra/back").symlink_to("../ant")
        link /= "back"
    (problem, *_) = verify("folder", folder_root, workers=1).problems
    reason = "a link that leads back to where it is; mend: remove the link"
    assert (problem.kind, problem.path) == ("unreadable", str(folder_root / "train/ant"))
    assert problem.message == f"{link.relative_to(folder_root / 'train/ant')}: {reason}"
    with pytest.raises(UserError, match=rf"^{link}: {reason}$"):
        FolderImages(folder_root, "train")
    assert "empty-class" not in {problem.kind for problem in verify("folder", folder_root, deep=False).problems}


def test_a_link_to_itself_beside_the_classes_or_the_splits_is_named(folder_root: Path) -> None:
    for folder, open_it in (
        (folder_root / "train", lambda: FolderImages(folder_root, "train")),
        (folder_root / "train/ant", lambda: find_root("folder", folder_root / "train/ant")),
    ):
        for path in folder.glob("*.png"):
            path.unlink()
        link = folder / "me"
        link.symlink_to("me")
        with pytest.raises(UserError, match=rf"^{link}: a link that leads back to where it is; mend: remove the link$"):
            open_it()


def test_files_that_nobody_reads_are_counted_by_their_endings(folder_root: Path) -> None:
    for name in (
        "train/ant/a.heic",
        "train/ant/below/b.HEIC",
        "train/mole/c.avif",
        "train/zebra/README",
        "val/ant/d.txt",
    ):
        path = folder_root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    (folder_root / "train/ant/.DS_Store").write_bytes(b"x")
    (folder_root / "train/ant/0.png").rename(folder_root / "train/ant/0.jfif")
    report = verify("folder", folder_root, deep=False, workers=1)
    assert report.ok
    assert report.counts["train"]["ant"] == 4
    why = "left out, without an image's ending"
    assert report.warnings == [
        f"train: 4 files {why}: 2 .heic, 1 .avif, 1 without an ending",
        f"val: 1 file {why}: 1 .txt",
    ]


def test_images_that_a_viewer_would_turn_are_counted_and_used_as_they_are_stored(folder_root: Path) -> None:
    for orientation in range(10):  # 1 is upright; 0 and 9 are none
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        Image.new("RGB", (8, 6), (25 * orientation, 0, 0)).save(
            folder_root / f"train/ant/t{orientation}.jpg", exif=exif
        )
    report = verify("folder", folder_root, workers=1)
    assert report.ok
    assert report.warnings == [
        "7 images with an EXIF orientation, which is not applied: used as stored, as by torchvision"
    ]
    assert decode(folder_root / "train/ant/t6.jpg").size == (8, 6)
    assert inspect(folder_root / "train/ant/t6.jpg").turned
    assert not inspect(folder_root / "train/ant/t1.jpg").turned


def test_a_quick_look_decodes_nothing_but_still_finds_what_sizes_tell(folder_root: Path) -> None:
    bad_image(folder_root / "train/ant", "empty")
    bad_image(folder_root / "train/ant", "truncated")
    report = verify("folder", folder_root, deep=False, workers=1)
    assert [problem.kind for problem in report.problems] == ["zero-byte"]
    assert not report.decoded


def test_a_name_of_two_lines_is_shown_in_one(folder_root: Path) -> None:
    (folder_root / "train/ant/a\tb\nno problems.png").touch()
    (folder_root / "val/a\n9 images").mkdir()
    said = CliRunner().invoke(app, ["verify", "folder", "--root", str(folder_root), "--per-class"]).output
    lines = said.splitlines()
    assert f"zero-byte {folder_root}/train/ant/a\\tb\\nno problems.png: the file is empty (0 bytes)" in lines
    assert not [line for line in lines if line.startswith(("no problems", "9 images"))]


def test_several_processes_find_what_one_finds(folder_root: Path) -> None:
    for index in range(60):
        write_image(folder_root / "train/ant" / f"more{index}.png", 200 + index, size=(4, 4))
    bad_image(folder_root / "train/ant", "truncated")
    bad_image(folder_root / "train/zebra", "1x1")
    assert verify("folder", folder_root, workers=2).problems == verify("folder", folder_root, workers=1).problems


def test_verify_names_missing_splits_and_classes(imagenet_root: Path) -> None:
    (imagenet_root / "val").rename(imagenet_root / "elsewhere")
    away = class_list()[3:5]
    for wnid in away:
        (imagenet_root / "train" / wnid).rename(imagenet_root / wnid)
    report = verify("imagenet100", imagenet_root, workers=1)
    assert [(problem.kind, problem.path) for problem in report.problems] == [
        ("missing-split", str(imagenet_root / "val")),
        *(("missing-class", str(imagenet_root / "train" / wnid)) for wnid in away),
    ]
    assert [report.counts["train"][wnid] for wnid in away] == [0, 0]
    assert "n99999999" not in report.counts["train"]


def test_of_one_class_accuracies_tell_nothing_and_of_no_image_all_is_not_well(folder_root: Path) -> None:
    for other in (path for path in folder_root.glob("*/*") if path.name != "ant"):
        shutil.rmtree(other)
    report = verify("folder", folder_root, workers=1)
    assert (report.ok, report.depth) == (True, "every image decoded")
    assert report.warnings == ["1 class: enough to pretrain on, but every accuracy on it is 100 %"]
    for split in ("train", "val"):
        shutil.rmtree(folder_root / split)
    assert verify("folder", folder_root, workers=1).depth == "no image found"  # "every image decoded"


def test_an_unusual_number_of_images_is_a_warning(imagenet_root: Path) -> None:
    report = verify("imagenet100", imagenet_root, workers=1)
    assert report.ok
    assert [warning.split(",")[0] for warning in report.warnings] == ["train: 100 images", "val: 100 images"]
    assert "126689" in report.warnings[0]


def test_scenes_verify() -> None:
    report = verify("scenes", None)
    assert report.ok, report.problems
    assert report.total("train") == report.total("val") == 40
    assert set(report.counts["train"].values()) == {4}


def test_cutouts_are_decoded_and_too_few_are_a_problem(tmp_path: Path) -> None:
    image = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
    image.paste((200, 30, 30, 255), (10, 10, 50, 50))
    image.save(tmp_path / "only.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "only.png").read_bytes()[:50])
    report = verify("scenes-cutouts", tmp_path, workers=1)
    assert [problem.kind for problem in report.problems] == ["unreadable", "unusable"]
    assert report.problems[0].path == str(tmp_path / "torn.png")


def test_a_folder_of_cutouts_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, scan = tmp_path / "closed", os.scandir
    closed.mkdir()

    def scandir(path: Any = ".") -> object:  # as of a folder of mode 000, to anybody but root
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    first = verify("scenes-cutouts", tmp_path, workers=1).problems[0]
    monkeypatch.undo()
    assert (first.kind, first.path) == ("unreadable", str(tmp_path))
    assert first.message == "closed: Permission denied; mend: make it readable or remove it"


def test_scenes_that_are_drawn_differently_each_time_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drifting:
        classes = ("a", "b")
        targets = (0, 1, 7)
        draws = 0

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            Drifting.draws += 1
            return Image.new("RGB", (4, 4), (Drifting.draws, index, 0)), self.targets[index]

        def fingerprint(self) -> str:
            return "same"

    entry = Dataset(
        name="drifting",
        title="",
        layout="",
        open=lambda entry, split, root, scenes: Drifting(),
        needs_root=False,
        generated=True,
    )
    monkeypatch.setitem(DATASETS, "drifting", entry)
    kinds = [problem.kind for problem in verify("drifting", None).problems]
    assert kinds.count("not-deterministic") == 6
    assert kinds.count("label-range") == 2
    monkeypatch.setattr(Drifting, "fingerprint", lambda self: str(id(self)))
    messages = [problem.message for problem in verify("drifting", None).problems]
    assert "val: two equal data sets have different fingerprints" in messages


# The command line


def test_the_list_shows_every_data_set_and_its_root(folder_root: Path) -> None:
    config_file().parent.mkdir(parents=True)
    config_file().write_text(json.dumps({"folder": str(folder_root)}))  # JSON is YAML
    rows = {row["name"]: row for row in json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)}
    assert list(rows) == list(DATASETS)
    assert rows["folder"]["root"] == str(folder_root)
    assert rows["imagenet100"]["classes"] == 100
    assert rows["imagenet100"]["root"] is None
    assert "--root DIR" in rows["imagenet100"]["note"]
    outcome = CliRunner().invoke(app, ["list"])
    assert outcome.exit_code == 0
    assert all(name in outcome.stdout for name in DATASETS)


def test_a_root_that_is_gone_is_a_line_of_the_list(tmp_path: Path) -> None:
    config_file().parent.mkdir(parents=True)
    config_file().write_text(json.dumps({"folder": str(tmp_path / "gone")}))
    rows = {row["name"]: row for row in json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)}
    assert rows["folder"]["root"] is None
    assert rows["folder"]["note"].startswith(f"{tmp_path}/gone: No such file or directory (root of folder, by ")


def test_verify_exits_by_what_it_found(folder_root: Path) -> None:
    whole = CliRunner().invoke(app, ["verify", "folder", "--root", str(folder_root), "--workers", "1", "--per-class"])
    assert whole.exit_code == 0
    assert "no problems; every image decoded" in whole.stdout
    assert "zebra" in whole.stdout
    torn = bad_image(folder_root / "train/ant", "truncated")
    torn_outcome = CliRunner().invoke(app, ["verify", "folder", "--root", str(folder_root), "--workers", "1"])
    assert torn_outcome.exit_code == 1
    assert f"unreadable {torn}: " in torn_outcome.stdout
    assert "1 unreadable; every other image decoded" in torn_outcome.stdout
    quick = CliRunner().invoke(app, ["verify", "folder", "--root", str(folder_root), "--quick", "--json"])
    assert quick.exit_code == 0
    assert json.loads(quick.stdout)["counts"]["train"] == {"ant": 5, "mole": 4, "zebra": 4}
    quick = CliRunner().invoke(app, ["verify", "folder", "--root", str(folder_root), "--quick"])
    assert "no problems; images not decoded (--quick)" in quick.stdout


@pytest.mark.parametrize("name", ["caltech101", "flowers102", "voc07+12", "coco"])
def test_of_a_folder_that_is_no_such_data_set_no_image_is_called_decoded(name: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    outcome = CliRunner().invoke(app, ["verify", name, "--root", str(tmp_path)])
    assert "1 unusable; no image decoded" in outcome.stdout
    assert verify(name, tmp_path).to_plain()["decoded"] is False


def test_verify_without_a_usable_root_is_a_user_error(tmp_path: Path) -> None:
    for arguments in (["folder"], ["folder", "--root", str(tmp_path / "none")], ["scenes", "--root", str(tmp_path)]):
        outcome = CliRunner().invoke(app, ["verify", *arguments])
        assert isinstance(outcome.exception, UserError)


def test_every_command_shows_an_example() -> None:
    for command in ("list", "verify", "prepare"):
        assert f"salmask data {command}" in CliRunner().invoke(app, [command, "--help"]).stdout
