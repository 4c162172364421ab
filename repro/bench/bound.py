"""How fast a training step could be at most: as fast as a bare, compiled classifier's on random images.

Its step has only what each step of MoCo or SimCLR also has, forward and backward passes through a ResNet: no
augmentation, no momentum encoder, no queue. So the floating-point operations per second that it reaches are the most
that the device can give to such a network.
"""

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from repro.backbones.resnet import build_resnet

CLASSES = 100
"""Number of the classifier's outputs: the number of ImageNet-100's classes."""

WARM_UP = 4
"""Steps in which the network is compiled, before it is captured."""


class BareStep:
    """A training step of a classifier on one batch of noise that never changes: bf16, channels last, compiled."""

    def __init__(self, arch: str, width: int, size: int, batch: int, device: torch.device) -> None:
        """Builds the network and its batch.

        Args:
            arch: A torchvision ResNet.
            width: The network's base planes.
            size: Pixels a side of the images.
            batch: Images of a step.
            device: The device that trains it.

        Raises:
            UserError: There is no such network.
        """
        self.network = build_resnet(arch, CLASSES, width).to(device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
        images = torch.randn(batch, 3, size, size, device=device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.arange(batch, device=device) % CLASSES
        self._graph: torch.cuda.CUDAGraph | None = None
        with FlopCounterMode(display=False) as counter:
            self()
        self.flops: int = counter.get_total_flops()
        """FLOPs of one step: two for each multiply-add of convolutions and matrix products."""
        self.network.compile(dynamic=False)
        # Replayed from a CUDA graph; otherwise a slow host would limit what is measured.
        if device.type == "cuda":
            self._capture()

    def __call__(self) -> None:
        """Makes one step."""
        if self._graph is None:
            self._pass()
        else:
            self._graph.replay()
        self.optimizer.step()
        if self._graph is None:  # a captured backward pass overwrites the gradients, which must stay in place
            self.optimizer.zero_grad()

    def _pass(self) -> None:
        with torch.autocast(self.images.device.type, dtype=torch.bfloat16):
            loss = F.cross_entropy(self.network(self.images), self.labels)
        loss.backward()

    def _capture(self) -> None:
        """Compiles the forward and backward pass in a few steps, and captures them."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            self._pass()
        self._graph = graph
