"""What mmengine's Runner trains: models that turn a batch into a loss, and do nothing else."""

from abc import abstractmethod
from typing import Any

from mmengine.model import BaseModel
from torch import Tensor, nn


class LossModel(BaseModel):
    """An mmengine model that is only trained; what it learned is used without it, as a backbone."""

    def forward(self, *inputs: Any, mode: str = "loss", **named: Any) -> dict[str, Tensor]:
        """The losses of one step, as mmengine asks for them.

        Args:
            inputs: of `losses`, as the data preprocessor makes them.
            mode: only "loss"; mmengine's other modes predict.
            named: of `losses`, by name.

        Raises:
            ValueError: another mode.
        """
        if mode != "loss":
            raise ValueError(f"{type(self).__name__} is only trained; mode '{mode}' is not one of its own")
        return self.losses(*inputs, **named)

    @abstractmethod
    def losses(self, *inputs: Any, **named: Any) -> dict[str, Tensor]:
        """The scalar `loss` of one step, and scalars to log beside it."""


class ContrastiveModel(LossModel):
    """A contrastive framework's model: compares views, and learns its `encoder` by it."""

    encoder: nn.Module
    """What learns, and becomes `backbone.pth`."""
