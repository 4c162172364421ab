import errno
import io
import os
import tarfile
from pathlib import Path
from typing import IO

import filelock
import pytest
from error_samples import message_of
from imagenet_samples import add, devkit, jpegs, tar_of
from training_samples import refused
from typer.testing import CliRunner

from repro.data import imagenet
from repro.data.archives import DOWNLOAD_AGAIN
from repro.data.commands import app
from repro.data.imagenet import DEVKIT_ARCHIVE, TRAIN_ARCHIVE, VAL_ARCHIVE, class_list, prepare_imagenet100
from repro.data.verification.checks import verify
from repro.errors import UserError

OTHERS = ("n01440764", "n15075141")  # classes of ImageNet-1k outside the hundred
TRAIN_EACH = 2
VAL_EACH = 2


@pytest.fixture(autouse=True)
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes that were flushed to disk, in order. They are not really flushed: tests would wait for a busy disk."""
    inodes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: inodes.append(os.fstat(descriptor).st_ino))
    return inodes


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """The three archives in small: 102 classes, which are not in the order of their names."""
    pictures = jpegs()
    wnids = [OTHERS[1], *reversed(class_list()), OTHERS[0]]
    nested = {
        f"{wnid}.tar": tar_of({f"{wnid}_{index}.JPEG": next(pictures) for index in range(TRAIN_EACH)}) for wnid in wnids
    }
    truth = [number for _ in range(VAL_EACH) for number in range(len(wnids), 0, -1)]
    val = {f"ILSVRC2012_val_{index:08d}.JPEG": next(pictures) for index in range(1, len(truth) + 1)}
    return {TRAIN_ARCHIVE: tar_of(nested), VAL_ARCHIVE: tar_of(val), DEVKIT_ARCHIVE: devkit(wnids, truth)}


@pytest.fixture
def archives(tmp_path: Path, contents: dict[str, bytes]) -> Path:
    folder = tmp_path / "archives"
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "imagenet100"


def classes_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_all_and_only_the_hundred_classes_are_unpacked(archives: Path, root: Path, contents: dict[str, bytes]) -> None:
    prepare_imagenet100([archives], root)
    assert classes_in(root / "train") == classes_in(root / "val") == set(class_list())
    wnid = class_list()[42]
    with tarfile.open(archives / TRAIN_ARCHIVE) as outer:
        nested = outer.extractfile(f"{wnid}.tar")
        assert nested is not None
        with tarfile.open(fileobj=nested) as inner:
            for member in inner:
                stream = inner.extractfile(member)
                assert stream is not None
                assert (root / "train" / wnid / member.name).read_bytes() == stream.read()
    report = verify("imagenet100", root, workers=1)
    assert report.ok, report.problems
    assert set(report.counts["train"].values()) == {TRAIN_EACH}
    assert set(report.counts["val"].values()) == {VAL_EACH}


def test_everything_is_on_disk_before_it_gets_its_name(archives: Path, root: Path, flushed: list[int]) -> None:
    prepare_imagenet100([archives], root)
    wnid = class_list()[7]
    of_class = {path.stat().st_ino for path in (root / "train" / wnid).iterdir()}
    last = max(flushed.index(inode) for inode in of_class)
    assert flushed[last + 1 : last + 3] == [(root / "train" / wnid).stat().st_ino, (root / "train").stat().st_ino]
    assert {path.stat().st_ino for path in root.glob("*/*/*.JPEG")} <= set(flushed)


def test_validation_images_go_to_the_class_that_the_devkit_says(archives: Path, root: Path) -> None:
    prepare_imagenet100([archives], root)
    # The ids run along [OTHERS[1], *reversed(classes), OTHERS[0]] and the truth counts down: image 1 is of class
    # OTHERS[0].
    places = {path.name: path.parent.name for path in (root / "val").glob("*/*.JPEG")}
    assert "ILSVRC2012_val_00000001.JPEG" not in places
    assert places["ILSVRC2012_val_00000002.JPEG"] == class_list()[0]
    assert places["ILSVRC2012_val_00000101.JPEG"] == class_list()[99]
    assert "ILSVRC2012_val_00000102.JPEG" not in places
    assert places["ILSVRC2012_val_00000104.JPEG"] == class_list()[0]


def test_a_torn_training_archive_keeps_what_is_finished_and_is_resumed(
    archives: Path, root: Path, contents: dict[str, bytes]
) -> None:
    whole = contents[TRAIN_ARCHIVE]
    (archives / TRAIN_ARCHIVE).write_bytes(whole[: len(whole) // 3])
    with pytest.raises(UserError, match=rf"{TRAIN_ARCHIVE}: member n\d{{8}}\.tar.*is kept") as caught:
        prepare_imagenet100([archives], root)
    assert "\n" not in str(caught.value)
    finished = classes_in(root / "train")
    assert 20 < len(finished) < 45
    assert all(len(list((root / "train" / wnid).iterdir())) == TRAIN_EACH for wnid in finished)
    inodes = {path: path.stat().st_ino for path in (root / "train").glob("*/*")}
    (archives / TRAIN_ARCHIVE).write_bytes(whole)
    prepare_imagenet100([archives], root)
    assert classes_in(root / "train") == set(class_list())
    assert all(path.stat().st_ino == inode for path, inode in inodes.items())


def test_an_archive_cut_between_two_members_is_not_taken_for_whole(
    archives: Path, root: Path, contents: dict[str, bytes]
) -> None:
    with tarfile.open(archives / TRAIN_ARCHIVE) as outer:
        # The first member and the last are of other classes.
        boundaries = {count: outer.getmembers()[count + 1].offset for count in (50, 99)}
    lacking = {50: "[0-9n]+.tar and 49 more of the 100 classes are", 99: f"{class_list()[0]}.tar is"}
    for count, boundary in boundaries.items():
        (archives / TRAIN_ARCHIVE).write_bytes(contents[TRAIN_ARCHIVE][:boundary])
        with pytest.raises(UserError, match=f": member {lacking[count]} not in it; the archive is incomplete"):
            prepare_imagenet100([archives], root)
        assert len(classes_in(root / "train")) == count


def test_the_reason_is_told_where_the_list_of_classes_ends_early(
    archives: Path, root: Path, contents: dict[str, bytes]
) -> None:
    with tarfile.open(archives / TRAIN_ARCHIVE) as outer:
        within = outer.getmembers()[0].offset_data + 100  # of a class that is not unpacked
    (archives / TRAIN_ARCHIVE).write_bytes(contents[TRAIN_ARCHIVE][:within])
    lacking = f"member {class_list()[0]}.tar and 99 more of the 100 classes are not in it (unexpected end of data)"
    line = f"{archives / TRAIN_ARCHIVE}: {lacking}; the archive is incomplete; mend: {DOWNLOAD_AGAIN}"
    assert message_of(lambda: prepare_imagenet100([archives], root)) == line
    assert not root.exists()


@pytest.mark.parametrize(
    ("number", "within", "reason"),
    [
        (101, 0, "member {} and 100 more are not in it; the archive is incomplete"),
        (203, 0, "member {} is not in it; the archive is incomplete"),
        (203, 522, "member {}: torn, incomplete or not the right archive (unexpected end of data)"),
    ],
)
def test_of_a_validation_archive_that_is_cut_the_first_image_that_lacks_is_named(
    archives: Path, root: Path, contents: dict[str, bytes], number: int, within: int, reason: str
) -> None:
    with tarfile.open(archives / VAL_ARCHIVE) as outer:
        first = outer.getmembers()[number - 1]
    (archives / VAL_ARCHIVE).write_bytes(contents[VAL_ARCHIVE][: first.offset + within])
    line = f"{archives / VAL_ARCHIVE}: {reason.format(first.name)}; mend: {DOWNLOAD_AGAIN}"
    assert message_of(lambda: prepare_imagenet100([archives], root)) == line
    assert len(list((root / "val").glob("*/*"))) == {101: 99, 203: 199}[number]


def test_a_torn_validation_archive_is_named_and_resumed(archives: Path, root: Path, contents: dict[str, bytes]) -> None:
    whole = contents[VAL_ARCHIVE]
    (archives / VAL_ARCHIVE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"{VAL_ARCHIVE}: .*is kept"):
        prepare_imagenet100([archives], root)
    inodes = {path: path.stat().st_ino for path in (root / "val").glob("*/*.JPEG")}
    assert 50 < len(inodes) < 150
    spoilt = next(iter(inodes))
    spoilt.write_bytes(b"short")
    (archives / VAL_ARCHIVE).write_bytes(whole)
    (archives / TRAIN_ARCHIVE).unlink()  # no longer needed
    prepare_imagenet100([archives], root)
    assert len(list((root / "val").glob("*/*"))) == VAL_EACH * 100
    assert spoilt.stat().st_size > 5
    assert all(path.stat().st_ino == inode for path, inode in inodes.items() if path != spoilt)


def test_a_stopped_run_leaves_no_half_class_and_a_killed_one_is_cleaned_up(
    archives: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, count = imagenet.write_member, 0

    def stop_in_the_sixth_class(path: Path, stream: IO[bytes], size: int) -> None:
        nonlocal count
        count += 1
        if count == 5 * TRAIN_EACH + 2:
            raise KeyboardInterrupt
        write(path, stream, size)

    monkeypatch.setattr(imagenet, "write_member", stop_in_the_sixth_class)
    with pytest.raises(KeyboardInterrupt):
        prepare_imagenet100([archives], root)
    assert len(classes_in(root / "train")) == 5
    monkeypatch.setattr(imagenet, "write_member", write)
    # What `kill -9` leaves, after which nothing cleans up.
    wnid = min(set(class_list()) - classes_in(root / "train"))
    (root / f"train/.{wnid}.part").mkdir()
    (root / f"train/.{wnid}.part/junk.JPEG").write_bytes(b"half")
    prepare_imagenet100([archives], root)
    assert classes_in(root / "train") == set(class_list())
    assert not (root / "train" / wnid / "junk.JPEG").exists()


def test_a_full_disk_says_how_much_is_needed(archives: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, stream: IO[bytes], size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(imagenet, "write_member", full)
    with pytest.raises(UserError, match=r"the disk is full: about 1\.0 MB more are needed"):
        prepare_imagenet100([archives], root)
    assert classes_in(root / "train") == set()


def nested_with(contents: dict[str, bytes], wnid: str, content: bytes) -> bytes:
    """The training archive with the nested tar of one class replaced."""
    members = {}
    with tarfile.open(fileobj=io.BytesIO(contents[TRAIN_ARCHIVE])) as outer:
        for member in outer:
            stream = outer.extractfile(member)
            assert stream is not None
            members[member.name] = content if member.name == f"{wnid}.tar" else stream.read()
    return tar_of(members)


def test_a_damaged_header_within_a_class_is_not_taken_for_its_end(
    archives: Path, root: Path, contents: dict[str, bytes]
) -> None:
    wnid = class_list()[-1]
    damaged = bytearray(tar_of({f"{wnid}_{index}.JPEG": b"x" * 600 for index in range(3)}))
    second = tarfile.BLOCKSIZE * 3
    damaged[second : second + 8] = b"garbage!"
    (archives / TRAIN_ARCHIVE).write_bytes(nested_with(contents, wnid, bytes(damaged)))
    with pytest.raises(UserError, match=rf"member {wnid}\.tar: torn.*damaged after 1536 bytes"):
        prepare_imagenet100([archives], root)
    assert wnid not in classes_in(root / "train")


def test_folders_in_a_training_archive_that_was_packed_again_are_passed_over(
    archives: Path, root: Path, contents: dict[str, bytes]
) -> None:
    folder = tarfile.TarInfo("train")
    folder.type = tarfile.DIRTYPE
    (archives / TRAIN_ARCHIVE).write_bytes(folder.tobuf() + contents[TRAIN_ARCHIVE])
    prepare_imagenet100([archives], root)
    assert classes_in(root / "train") == set(class_list())


@pytest.mark.parametrize("name", ["../../../evil.JPEG", "/etc/evil.JPEG", "run.sh"])
def test_names_that_do_not_belong_there_are_refused(
    archives: Path, root: Path, contents: dict[str, bytes], name: str
) -> None:
    wnid = class_list()[-1]
    (archives / TRAIN_ARCHIVE).write_bytes(nested_with(contents, wnid, tar_of({name: b"x"})))
    with pytest.raises(UserError, match=rf"member {wnid}\.tar: .*holds '.*', which does not belong there"):
        prepare_imagenet100([archives], root)
    assert not list(root.parent.rglob("evil.JPEG"))


def test_a_path_in_a_name_cannot_lead_out_of_the_class(archives: Path, root: Path, contents: dict[str, bytes]) -> None:
    wnid = class_list()[-1]
    hostile = tar_of({f"../../../../{wnid}_7.JPEG": b"inside"})
    (archives / TRAIN_ARCHIVE).write_bytes(nested_with(contents, wnid, hostile))
    prepare_imagenet100([archives], root)
    assert [path.relative_to(root) for path in root.parent.rglob(f"{wnid}_7.JPEG")] == [
        Path("train") / wnid / f"{wnid}_7.JPEG"
    ]


def test_a_link_in_an_archive_is_refused(archives: Path, root: Path, contents: dict[str, bytes]) -> None:
    wnid = class_list()[-1]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        link = tarfile.TarInfo(f"{wnid}_0.JPEG")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (archives / TRAIN_ARCHIVE).write_bytes(nested_with(contents, wnid, stream.getvalue()))
    with pytest.raises(UserError, match="does not belong there"):
        prepare_imagenet100([archives], root)


def test_missing_and_wrong_archives_are_named_before_anything_is_written(archives: Path, root: Path) -> None:
    (archives / DEVKIT_ARCHIVE).write_bytes(b"<html>please log in</html>")
    with pytest.raises(UserError, match=rf"{DEVKIT_ARCHIVE}: not a whole ILSVRC2012 devkit"):
        prepare_imagenet100([archives], root)
    (archives / VAL_ARCHIVE).unlink()
    (archives / DEVKIT_ARCHIVE).unlink()
    with pytest.raises(
        UserError, match=rf"{VAL_ARCHIVE}, {DEVKIT_ARCHIVE} missing; mend: download from https://image-net.org"
    ):
        prepare_imagenet100([archives], root)
    assert not root.exists()


def test_a_devkit_without_its_tables_or_of_other_classes_is_no_devkit(
    archives: Path, root: Path, contents: dict[str, bytes]
) -> None:
    file = archives / DEVKIT_ARCHIVE
    with tarfile.open(file, "w:gz") as archive:
        add(archive, "ILSVRC2012_devkit_t12/readme.txt", b"hello")
    line = f"{file}: not a whole ILSVRC2012 devkit (no data/meta.mat); mend: download it again"
    assert message_of(lambda: prepare_imagenet100([archives], root)) == line
    file.write_bytes(devkit([OTHERS[1], *class_list()], [1, 2, 2, 101]))
    line = f"{file}: no validation image of 98 of the 100 classes; mend: download it again"
    assert message_of(lambda: prepare_imagenet100([archives], root)) == line
    assert not root.exists()


def test_a_devkit_that_may_not_be_read_need_not_be_downloaded_again(
    archives: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tarfile, "open", refuse)
    with pytest.raises(UserError, match=rf"{DEVKIT_ARCHIVE}: Permission denied; mend: make it readable and repeat$"):
        prepare_imagenet100([archives], root)
    assert not root.exists()


def test_what_is_whole_needs_no_archive(archives: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "VAL_EACH", VAL_EACH)
    prepare_imagenet100([archives], root)
    prepare_imagenet100([], root)
    next((root / "val").rglob("*.JPEG")).unlink()
    with pytest.raises(UserError, match=f"imagenet100: {VAL_ARCHIVE}, {DEVKIT_ARCHIVE} missing"):
        prepare_imagenet100([], root)


def test_a_training_archive_that_is_none_is_named(archives: Path, root: Path) -> None:
    (archives / TRAIN_ARCHIVE).write_bytes(b"<html>please log in</html>" * 100)
    with pytest.raises(UserError, match=rf"{TRAIN_ARCHIVE}: torn, incomplete or not the right archive"):
        prepare_imagenet100([archives], root)
    assert not root.exists()


def test_two_processes_do_not_prepare_one_root(archives: Path, root: Path) -> None:
    root.mkdir()
    with (
        filelock.FileLock(root / ".salmask-prepare.lock"),
        pytest.raises(UserError, match="another process is preparing"),
    ):
        prepare_imagenet100([archives], root)


def test_the_command_unpacks_and_says_where(archives: Path, root: Path) -> None:
    arguments = ["prepare", "imagenet100", "--from", str(archives), "--root", str(root)]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert f"imagenet100: ready in {root}" in outcome.stdout
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0
    nothing = CliRunner().invoke(app, ["prepare", "scenes"])
    assert nothing.exit_code == 0
    assert "nothing to prepare" in nothing.stdout
    for option in ("--from", "--root"):
        line = f"'{option}' changes nothing in scenes: nothing to prepare; mend: leave it out"
        assert refused("data", "prepare", "scenes", option, str(archives)) == line
