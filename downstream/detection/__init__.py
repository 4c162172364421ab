"""Detection and instance segmentation on detectron2.

`task` is the entry point, and the only module that the rest of salmask imports. detectron2 is optional, and takes
seconds to import. The other modules import it at their top, so `task` imports them inside functions (and for types
under TYPE_CHECKING). Other tasks never wait for it. If it is missing, `task.require_detectron2` says how to get it.

`config` makes detectron2's config of a training, `data` its images, `model` the detector with the backbone in it;
`training` trains it, `evaluation` scores it, `estimate` tells how long a training would take.
"""
