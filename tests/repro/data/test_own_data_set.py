"""A data set that a user added, and the mistakes made in one: each is one line before anything is trained."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from repro.data import catalogue
from repro.data.splits import Images, Split, pixels_of
from repro.data.verification.checks import verify
from repro.errors import UserError
from repro.settings.sections import ScenesSettings


class Drawn:
    """Images as docs/extend.md describes them for a user's own data set."""

    classes = ("a", "b")

    def __init__(self, count: int = 4, mode: str = "RGB") -> None:
        self.targets: Any = [index % 2 for index in range(count)]
        self.mode = mode

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        return Image.new(self.mode, (8, 8)), self.targets[index]

    def fingerprint(self) -> str:
        return "drawn"


def opened(monkeypatch: pytest.MonkeyPatch, images: object, split: Split = "train") -> Images:
    entry = replace(catalogue.DATASETS["scenes"], name="drawn", open=lambda *_: images)
    monkeypatch.setitem(catalogue.DATASETS, "drawn", entry)
    return catalogue.open_images("drawn", split, None, ScenesSettings())


def labelled(*labels: object) -> Drawn:
    images = Drawn()
    images.targets = list(labels)
    return images


def answering(answer: Callable[[int], object]) -> Drawn:
    return type("Drawn", (Drawn,), {"__getitem__": lambda _, index: answer(index)})()


class Longer(Drawn):
    def __len__(self) -> int:
        return 9


PICTURE = Image.new("RGB", (8, 8))


@pytest.mark.parametrize(
    ("images", "line"),
    [
        (Drawn(0), " holds no image; mend: see what its opener looks for"),
        (None, ": NoneType has no classes; mend: what `Images` (repro/data/splits.py) lists"),
        (Longer(), ": Longer has 9 images, but 4 targets; mend: a label for each image"),
        (
            labelled(0, 1, 2, 0),
            ": image 2 has the label 2, which no class has; mend: whole numbers from 0 to 1, the place",
        ),
        (labelled(0, -1), ": image 1 has the label -1, which no class has; mend: whole numbers"),
        (labelled(0.0, 1.0), ": image 0 has the label 0.0, which no class has; mend: whole numbers"),
        (labelled("a", "b"), ": image 0 has the label a, which no class has; mend: whole numbers"),
        (
            answering(lambda _: (PICTURE, 1)),
            ": Drawn[0] has the label 1, but targets[0] is 0; mend: the same label in both",
        ),
    ],
)
def test_what_is_no_data_set_is_refused_as_it_is_opened(
    monkeypatch: pytest.MonkeyPatch, images: object, line: str
) -> None:
    """Invalid labels used to be trained on; other mistakes were told as faults of salmask's own."""
    with pytest.raises(UserError) as refusal:
        opened(monkeypatch, images)
    assert str(refusal.value).startswith(f"data set 'drawn', split train{line}")


@pytest.mark.parametrize(
    ("answer", "found"), [(PICTURE, "Image"), ((torch.zeros(3, 8, 8), 0), "Tensor, int"), ((PICTURE, 2), "")]
)
def test_a_first_image_that_is_none_is_refused_as_the_data_set_is_opened(
    monkeypatch: pytest.MonkeyPatch, answer: object, found: str
) -> None:
    line = rf"image 0 of Drawn is \({found}\); mend: a PIL image and its label, as a tuple"
    with pytest.raises(UserError, match=line if found else "image 0 of Drawn has the label 2, which no class has"):
        opened(monkeypatch, answering(lambda _: answer))


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "P", "CMYK"])
def test_an_image_that_is_not_rgb_is_named(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    line = rf'image 0 of Drawn is of mode {mode}, not RGB; mend: image\.convert\("RGB"\)'
    with pytest.raises(UserError, match=line):
        opened(monkeypatch, Drawn(mode=mode))
    # A later one is told when it is decoded.
    later = answering(lambda index: (Image.new(mode if index else "RGB", (8, 8)), index % 2))
    assert pixels_of(opened(monkeypatch, later), 0)[0].shape == (8, 8, 3)
    with pytest.raises(UserError, match=rf"image 3 of Drawn is of mode {mode}, not RGB"):
        pixels_of(later, 3)


def test_a_sound_data_set_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(opened(monkeypatch, Drawn())) == 4


class Shaded(Drawn):
    """Images of which no two are equal; those of val continue where those of train end."""

    def __init__(self, split: Split) -> None:
        super().__init__(6 if split == "train" else 3)
        self.first = 0 if split == "train" else 6

    def __getitem__(self, index: int) -> Any:
        return Image.new("RGB", (8, 8), (self.first + index,) * 3), self.targets[index]


class Faulty(Shaded):
    """The same, but three images of train cannot be used, and two of val are copies of two of train."""

    def __getitem__(self, index: int) -> Any:
        if self.first:
            return Image.new("RGB", (8, 8), (3 + index,) * 3), self.targets[index]
        if index == 1:
            Image.open("/nowhere.png")
        image, label = super().__getitem__(index)
        return (image.convert("L") if index in (2, 5) else image), label


@pytest.mark.parametrize("root", [None, "stored"])
def test_images_of_a_class_of_ones_own_are_verified(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: str | None
) -> None:
    """Such images used to be looked for in class folders, which they do not have, or were not verified at all."""
    folder = None if root is None else tmp_path / root

    def add(kind: Callable[[Split], Images]) -> None:
        entry = catalogue.Dataset("own", "", "", lambda _, split, *__: kind(split), needs_root=folder is not None)
        monkeypatch.setitem(catalogue.DATASETS, "own", entry)

    add(Shaded)
    report = verify("own", folder, workers=1)
    assert (report.problems, report.depth) == ([], "every image decoded")
    assert report.counts == {"train": {"a": 3, "b": 3}, "val": {"a": 2, "b": 1}}
    assert verify("own", folder, deep=False).depth == "images not decoded (--quick)"

    add(Faulty)
    where = "own" if folder is None else str(folder)
    problems = [(problem.kind, problem.path, problem.message) for problem in verify("own", folder).problems]
    reason = "[Errno 2] No such file or directory: '/nowhere.png'"
    missing = f"train: image 1 of Faulty: {reason}; mend: replace its file, or leave it out"
    assert problems == [
        ("unreadable", where, missing),
        ("unreadable", where, 'train: image 2 of Faulty is of mode L, not RGB; mend: image.convert("RGB")'),
        ("unreadable", where, 'train: image 5 of Faulty is of mode L, not RGB; mend: image.convert("RGB")'),
        ("overlap", where, "image 0 of val is image 3 of train"),
        ("overlap", where, "image 1 of val is image 4 of train"),
    ]

    class Torn(Shaded):
        """Images that are opened but not read, as PIL leaves them until their pixels are needed."""

        def __getitem__(self, index: int) -> Any:
            path = tmp_path / f"{self.first + index}.png"
            super().__getitem__(index)[0].resize((64, 64)).save(path)
            path.write_bytes(path.read_bytes()[: -60 if self.first + index == 4 else None])
            return Image.open(path), self.targets[index]

    add(Torn)
    (problem,) = verify("own", folder).problems
    assert problem.kind == "unreadable"
    assert problem.message.startswith("train: image 4 of Torn: ")

    class Closed(Shaded):
        def __getitem__(self, index: int) -> Any:
            return Image.open(f"/nowhere/{index}.png"), 0

    add(Closed)
    assert [(problem.kind, problem.message) for problem in verify("own", folder).problems] == [
        ("unusable", f"train: {reason.replace('.png', '/0.png')}; mend: replace its file, or leave it out")
    ]

    add(lambda split: Drawn(0))
    report = verify("own", folder)
    assert [(problem.kind, problem.path) for problem in report.problems] == [("unusable", where)]
    assert report.depth == "no image decoded"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("no IHDR\nchunk"), "ValueError: no IHDR chunk"),
        (KeyError("pixels"), "KeyError: 'pixels'"),
        (EOFError(), "EOFError"),
        (SyntaxError("broken PNG file"), "SyntaxError: broken PNG file"),
    ],
)
def test_whatever_a_class_of_ones_own_raises_the_image_is_named_and_the_others_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, told: str
) -> None:
    """Anything but an OSError used to end the verification in a traceback that named neither image nor mend."""

    # In a file of its own, as added code is recognised by its file.
    (tmp_path / "raising.py").write_text("def fail(error):\n    raise error\n")
    names: dict[str, Any] = {}
    exec(compile((tmp_path / "raising.py").read_text(), str(tmp_path / "raising.py"), "exec"), names)

    class Raising(Shaded):
        def __getitem__(self, index: int) -> Any:
            if self.first + index in (1, 7):
                names["fail"](error)
            return super().__getitem__(index)

    entry = catalogue.Dataset("own", "", "", lambda _, split, *__: Raising(split), needs_root=False)
    monkeypatch.setitem(catalogue.DATASETS, "own", entry)
    reason = f"{told} ({tmp_path}/raising.py, line 2); mend: correct its file, or the code that reads it"
    assert [(problem.kind, problem.message) for problem in verify("own", None).problems] == [
        ("unreadable", f"train: image 1 of Raising: {reason}"),
        ("unreadable", f"val: image 1 of Raising: {reason}"),
    ]
    # The same for the first image, which is read as the data set is opened.
    monkeypatch.setattr(Raising, "__getitem__", lambda *_: names["fail"](error))
    (problem,) = verify("own", None).problems
    assert (problem.kind, problem.message) == ("unusable", f"train: {reason}")


def test_full_memory_is_no_image_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Large(Shaded):
        def __getitem__(self, index: int) -> Any:
            if index == 1:
                raise MemoryError
            return super().__getitem__(index)

    entry = catalogue.Dataset("own", "", "", lambda _, split, *__: Large(split), needs_root=False)
    monkeypatch.setitem(catalogue.DATASETS, "own", entry)
    with pytest.raises(MemoryError):
        verify("own", None)
