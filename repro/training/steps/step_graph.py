"""Training steps that are replayed from a CUDA graph, as `machine.graphs` asks for it.

A step is some thousand kernels, and on a GPU most of them are done before the host has launched the next. A graph
launches them all at once: what is left of a step is the time that the device needs.
"""

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from repro.contrastive.loss_model import LossModel
from repro.processes.distributed import world_size
from repro.training.steps.preprocess import Augmenter

EAGER_STEPS = 3
"""Steps that run as usual before one is captured, in which libraries initialise and compilers compile."""


def can_be_replayed(model: nn.Module, device: torch.device) -> bool:
    """Returns whether a model's steps can be replayed: it has one loss, from images, on the only GPU of the training.

    ADIOS cannot, as its two networks take turns and draw on the host in between; nor can several processes, whose
    gradients are reduced by DDP.
    """
    return (
        device.type == "cuda"
        and world_size() == 1
        and isinstance(model, LossModel)
        and isinstance(model.data_preprocessor, Augmenter)
    )


class StepGraph:
    """Makes the training steps of a model: the first few as usual, all others by replaying one that was captured.

    The graph holds the preprocessing of a batch, the forward and the backward pass. The optimizer steps as usual, so
    that schedules of the learning rate and hooks on the gradients work unchanged. The results are those of a usual
    step, by the same kernels on the same streams of random numbers. They agree bit for bit if cuDNN's algorithms are
    deterministic and TF32 is off, as in `tests/test_gpu.py`; neither is torch's default.
    """

    def __init__(self, model: LossModel, wrapper: OptimWrapper) -> None:
        """Prepares to capture.

        Args:
            model: On a GPU; its `before_replay` and that of its data preprocessor do the host's part of a step.
            wrapper: Of the only optimizer.
        """
        assert isinstance(model.data_preprocessor, Augmenter)
        self.model, self.preprocessor, self.wrapper = model, model.data_preprocessor, wrapper
        self._steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream()
        self._batch: dict[str, Tensor] = {}
        self._losses: dict[str, Tensor] = {}

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Makes one step.

        Args:
            batch: The loader's, on the host; of the same size at every step.

        Returns:
            What `train_step` returns, the scalars to log, on the device.
        """
        self._steps += 1
        if self._steps <= EAGER_STEPS:
            return self._on_a_stream_of_its_own(batch)
        if self._graph is None:
            self._capture(batch)
        self._fill(batch)
        self.preprocessor.before_replay(batch)
        self.model.before_replay()
        assert self._graph is not None
        self._graph.replay()
        self.wrapper.step()
        # Copied, as the next replay overwrites the captured ones, and the log reads those of many steps at once.
        return {name: value.clone() for name, value in self._losses.items()}

    def _on_a_stream_of_its_own(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Makes a step as usual, but not on the default stream, on which no work may be left when capturing begins."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            outputs: dict[str, Tensor] = self.model.train_step(batch, self.wrapper)
        torch.cuda.current_stream().wait_stream(self._stream)
        return outputs

    def _capture(self, batch: dict[str, Tensor]) -> None:
        """Captures a step without making it."""
        self._batch = {name: value.to("cuda") for name, value in batch.items()}
        graph = torch.cuda.CUDAGraph()
        # Captured kernels read a generator's seed and offset from memory, which the graph fills before each replay,
        # but only for registered generators.
        for generator in self.preprocessor.before_capture():
            graph.register_generator_state(generator)
        # Without gradients of earlier steps, a captured backward pass writes gradients into the graph's memory instead
        # of adding to them. `wrapper.step` reads them there, and nothing sets them to None afterwards.
        self.wrapper.zero_grad()
        # "thread_local", as the loader's thread allocates pinned memory meanwhile, which is no part of the graph.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            with self.wrapper.optim_context(self.model):
                inputs = self.preprocessor(self._batch, True)
                losses = self.model._run_forward(inputs, mode="loss")
            loss, self._losses = self.model.parse_losses(losses)
            loss.backward()
        self._losses = {name: value.detach() for name, value in self._losses.items()}
        self._graph = graph

    def _fill(self, batch: dict[str, Tensor]) -> None:
        """Copies a batch to where the graph reads it; from pinned memory, the host does not wait for that."""
        for name, value in self._batch.items():
            value.copy_(batch[name], non_blocking=True)
