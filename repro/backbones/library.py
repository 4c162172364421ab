"""The libraries that a backbone can be exported to. No torch is imported here: `--help` lists these names."""

from enum import StrEnum


class Library(StrEnum):
    """The library that a backbone is written for."""

    torchvision = "torchvision"
    timm = "timm"
    detectron2 = "detectron2"
    huggingface = "huggingface"
