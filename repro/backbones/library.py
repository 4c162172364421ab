"""The libraries that a backbone can be exported to; without torch, as `--help` names them."""

from enum import StrEnum


class Library(StrEnum):
    """The library that a backbone is written for."""

    torchvision = "torchvision"
    timm = "timm"
    detectron2 = "detectron2"
    huggingface = "huggingface"
