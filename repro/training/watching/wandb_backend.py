"""Weights & Biases beside `metrics.jsonl` and TensorBoard, where `machine.wandb` asks for it: off-line first.

Nothing leaves the machine unless `WANDB_MODE=online` says so: the files in the run's `wandb/` are sent by `wandb
sync`, whenever a person likes. Its package is an extra, `salmask[wandb]`.
"""

import importlib
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.visualization.vis_backend import BaseVisBackend
from torch import Tensor

from repro.errors import UserError

PROJECT = "salmask"
OFFLINE = "offline"
"""The mode, unless the environment has one."""


def require_wandb() -> None:
    """Checks that the package is installed, without importing it.

    Raises:
        UserError: It is not.
    """
    if importlib.util.find_spec("wandb") is None:
        raise UserError(
            "machine.wandb=true needs the package wandb, which is not installed",
            mend="pip install '.[wandb]', or machine.wandb=false",
        )


class WandbFiles(BaseVisBackend):
    """Writes a training's scalars to a W&B run of the same id; mmengine's own backend drops the steps.

    A resumed training continues the same W&B run; steps that are made again have the same numbers as before.
    """

    def __init__(self, folder: Path, run_id: str, name: str, group: str, settings: Mapping[str, Any]) -> None:
        """Names the W&B run, which begins with the first scalars.

        Args:
            folder: Where its files go.
            run_id: Id of the run.
            name: Name under which W&B lists it.
            group: The sweep.
            settings: Settings of the run, flat.
        """
        super().__init__(save_dir=str(folder))
        self._begin_with = {"id": run_id, "name": name, "group": group, "config": dict(settings)}
        self._run: Any = None
        self._env_initialized = True  # otherwise mmengine warns that it calls `_init_env` itself

    def _init_env(self) -> None:
        """Nothing to prepare: the run begins with the first scalars."""

    @property
    def experiment(self) -> Any:
        """The W&B run, which mmengine asks each backend for."""
        if self._run is None:
            folder = Path(self._save_dir)
            folder.mkdir(parents=True, exist_ok=True)
            mode = os.environ.get("WANDB_MODE", OFFLINE)
            self._run = importlib.import_module("wandb").init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                dir=str(folder),
                mode=mode,
                settings={"silent": True, "console": "off"},  # standard error is the training's own
                resume="allow" if mode == "online" else None,  # off-line, `wandb sync` joins by id
                **self._begin_with,
            )
        return self._run

    def add_scalars(self, scalar_dict: dict[str, Any], step: int = 0, file_path: str | None = None, **_: Any) -> None:
        """Logs the scalars of a step; values that are not numbers are left out."""
        values = {k: float(v) for k, v in scalar_dict.items() if isinstance(v, int | float | Tensor) and k != "step"}
        self.experiment.log(values, step=step)

    def close(self) -> None:
        """Ends the run, so that its files are whole."""
        if self._run is not None:
            self._run.finish()
            self._run = None
