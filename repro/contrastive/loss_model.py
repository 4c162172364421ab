"""The base classes of the models that mmengine's Runner trains: they turn a batch into a loss, and do nothing else."""

from abc import abstractmethod
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from repro.errors import UserError


class LossModel(BaseModel):
    """An mmengine model that only computes losses; its networks are used for evaluation without it."""

    def forward(self, *inputs: Any, mode: str = "loss", **named_inputs: Any) -> dict[str, Tensor]:
        """Returns the losses of one step, as mmengine's `train_step` asks for them.

        Subclasses define `losses` instead. It is called from here, as DDP reduces only gradients of what is computed
        within `forward`.

        Args:
            inputs: What `losses` takes, where the data preprocessor makes a sequence.
            mode: Only "loss"; mmengine's other modes predict.
            named_inputs: What `losses` takes by name, where the data preprocessor makes a dictionary.

        Raises:
            ValueError: The mode is not "loss".
            UserError: `losses` returns no loss that can be trained.
        """
        if mode != "loss":
            raise ValueError(f"{type(self).__name__} is only trained; mode '{mode}' is not one of its own")
        losses = self.losses(*inputs, **named_inputs)
        if not isinstance(losses, dict) or not any(
            "loss" in name and _is_tensor(part) for name, part in losses.items()
        ):
            returned = f"a dictionary of {', '.join(losses)}" if isinstance(losses, dict) else type(losses).__name__
            what = f"{type(self).__name__}.losses returned {returned}, which contains no loss"
            raise UserError(what, mend='a dictionary whose "loss" is a tensor')
        if torch.is_grad_enabled() and not any(
            part.requires_grad for part in losses.values() if isinstance(part, Tensor)
        ):
            mend = "no `detach` and no `no_grad` between the network and its loss"
            raise UserError(f"{type(self).__name__}.losses returned a loss without a gradient", mend=mend)
        return losses

    def before_replay(self) -> None:
        """Does the host's part of a step, before the step is replayed from a CUDA graph; by default nothing.

        A replay repeats the step's kernels on the device, and runs none of the model's Python code.
        """

    @abstractmethod
    def losses(self, *inputs: Any, **named_inputs: Any) -> dict[str, Tensor]:
        """Returns the scalar `loss` of one step, and scalars to log beside it.

        mmengine adds up all entries whose name contains "loss"; the others are only logged.
        """


def _is_tensor(part: object) -> bool:
    """Returns whether mmengine can add up a part of the losses."""
    return isinstance(part, Tensor) or (isinstance(part, list) and all(isinstance(each, Tensor) for each in part))


class ContrastiveModel(LossModel):
    """A contrastive framework's model, which trains its `encoder` by comparing views."""

    encoder: nn.Module
    """The network that learns, and whose weights become `backbone.pth`."""

    @property
    def learned(self) -> list[nn.Parameter]:
        """All parameters that take a gradient: the encoder's, and what else is trained with it, such as a predictor."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]
