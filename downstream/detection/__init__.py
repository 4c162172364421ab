"""Detection and instance segmentation on detectron2."""
