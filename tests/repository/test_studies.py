"""The worked studies of docs/study-*.md, run as they are printed there."""

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from image_samples import make_folder_root, write_image
from page_samples import commands_in, words_of
from places import DOCS, ROOT
from training_samples import salmask

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def carried_out(page: str, names: dict[str, Any], *, leave_out: str = "") -> list[str]:
    """The output of each block of a page; a text block must be the output of the block before it.

    Commands that begin with `leave_out` are not carried out.
    """
    printed: list[str] = []
    for kind, block in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
        if kind == "text":
            assert printed[-1] == block
        elif kind == "python":
            out = StringIO()
            with redirect_stdout(out):
                exec(compile(block, page, "exec"), names)
            printed.append(out.getvalue())
        else:
            for line in commands_in(f"```\n{block}```"):
                words = words_of(line)
                assert words, line
                if leave_out and line.startswith(leave_out):
                    continue
                ended = salmask(*words)
                assert ended.code == 0, (line, ended.err)
                printed.append(ended.out)
    return printed


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


@pytest.mark.end_to_end
def test_masks_on_your_own_images(here: Path) -> None:
    make_folder_root(here / "pictures")
    _, audit, _, by_files = carried_out("study-own-images.md", {}, leave_out="salmask pretrain")
    assert (here / "masks" / "audit.html").stat().st_size > 10_000
    assert by_files != audit
    assert "hard negative" in audit
    assert all(column in audit for column in ("foreground %", "of foreground", "of background"))


@pytest.mark.slow  # half a minute of training
def test_a_training_on_your_own_images(here: Path) -> None:
    make_folder_root(here / "pictures")
    for number in range(60):
        write_image(
            here / "pictures" / "train" / ("zebra", "ant", "mole")[number % 3] / f"more{number}.png", 1000 + number
        )
    *_, trained = carried_out("study-own-images.md", {})
    (picture,) = here.glob("runs/*/*/*/gallery/masks.png")
    assert str(picture.parents[1].relative_to(here)) in trained


# Minutes on busy cores. The default tests cover both tasks for a run of ours (test_detection_training.py), and weights
# of every layout (test_foreign_weights.py).
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_from_foreign_weights_to_table_2(here: Path) -> None:
    pytest.importorskip("detectron2")
    _, measured, table, _ = carried_out("study-foreign-weights.md", {})
    assert {"bbox_AP50", "mask_AP50"} <= set(measured.split())
    assert "TINY MODE" in table
    assert re.search(r"^\| mine ", table, re.MULTILINE)
    assert "mask_AP50" in (here / "rows.csv").read_text()


def test_whether_a_difference_is_real(here: Path) -> None:
    names: dict[str, Any] = {}
    claims, arithmetic, explanation = carried_out("study-real-difference.md", names)
    assert "undecided" in claims
    assert len(arithmetic.splitlines()) == len(names["names"]) == 3
    assert [explanation.count(f"seed: {seed}\n") for seed in range(3)] == [1, 1, 1]
    assert explanation.count("measured at:") == 1  # once for all, as all have one commit


def test_a_study_that_shows_what_was_not_printed_is_caught(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "study.md").write_text("```python\nprint(1)\n```\n\n```text\n2\n```\n", encoding="utf-8")
    monkeypatch.setattr("test_studies.DOCS", here)
    with pytest.raises(AssertionError):
        carried_out("study.md", {})
