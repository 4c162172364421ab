"""Warnings about settings that are allowed, but that a person should know of before the training begins."""

from repro.settings.sections import Framework, RunSettings

LARGE_QUEUE = 0.5
"""Queue size, as a share of the training images, that is warned of. The paper's 65,536 of 126,689 is .52."""


def queue_caution(run: RunSettings, images: int | None) -> str:
    """Returns a warning about a queue that is large for the number of images; empty if it is not.

    The queue holds each image's key for `queue / images` epochs. All that time, the key is a negative of the image's
    own query.

    Args:
        run: The settings.
        images: Number of training images; None if it is unknown.
    """
    if run.framework is not Framework.mocov2 or not images or run.moco.queue < LARGE_QUEUE * images:
        return ""
    share = run.moco.queue / images
    epochs = f"{share:.2g}" if share < 10 else f"{share:,.0f}"
    return (
        f"moco.queue={run.moco.queue} is {share:,.0%} of the {images} training images: keys of an image from up to "
        f"{epochs} {'epoch' if epochs == '1' else 'epochs'} ago are negatives of its own query"
    )
