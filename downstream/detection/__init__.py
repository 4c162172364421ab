"""Detection and instance segmentation on detectron2.

`task` is the way in, and all that the rest of salmask imports. detectron2 is optional, and takes seconds to import: all
modules but `task` import it at their top, so `task` imports those inside the functions that need them (and for types
under TYPE_CHECKING). A run that is evaluated by other tasks never waits for it, and one without it is told how to get
it by `task.require_detectron2`.

`config` makes detectron2's config of a training, `data` its images, `model` the detector with the backbone in it;
`training` trains it, `evaluation` scores it, `estimate` tells how long a training would take.
"""
