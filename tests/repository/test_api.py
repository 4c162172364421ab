"""The program of docs/api.md, run as it is printed there."""

import re
from pathlib import Path

import pytest
from places import DOCS

from baselines import resolve
from results.collection.collect import collect

(PROGRAM,) = re.findall(r"^```python\n(.*?)^```", (DOCS / "api.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_a_program_trains_and_measures_as_the_commands_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(PROGRAM, {})
    printed = capsys.readouterr().out
    exec(PROGRAM, {})
    assert capsys.readouterr().out == printed  # a finished run is not trained again
    frame = collect([tmp_path / "runs"], resolve)
    assert set(frame["method"]) == {"mocov2+ours-hp"}
    lines = [" ".join(map(str, line)) for line in frame[["protocol", "metric", "value"]].itertuples(index=False)]
    assert sorted(lines) == sorted(printed.splitlines())
