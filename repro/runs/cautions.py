"""What a run may be, but a person should know before its training begins."""

from repro.runs.sections import Framework, RunSettings

LARGE_QUEUE = 0.5
"""Keys in MoCo's queue, in images of an epoch, from which on it is said. The paper's 65,536 of 126,689 are .52."""


def queue_caution(run: RunSettings, images: int | None) -> str:
    """Returns a line on a queue that is large against the number of images; empty where there is nothing to say.

    The queue holds each image's key for `queue / images` epochs: until then it is a negative of the image's own query.

    Args:
        run: The settings.
        images: Training images; None where nobody knows how many.
    """
    if run.framework is not Framework.mocov2 or not images or run.moco.queue < LARGE_QUEUE * images:
        return ""
    share = run.moco.queue / images
    epochs = f"{share:.2g}" if share < 10 else f"{share:,.0f}"
    return (
        f"moco.queue={run.moco.queue} is {share:,.0%} of the {images} training images: keys of an image from up to "
        f"{epochs} {'epoch' if epochs == '1' else 'epochs'} ago are negatives of its own query"
    )
