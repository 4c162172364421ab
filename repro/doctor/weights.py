"""Whether the trained weights that localizers need are on a machine, whole, or can be fetched from there."""

import http.client
import os
import urllib.request

from repro.data.errors import reason_of
from repro.doctor.diagnosis import Diagnosis
from repro.errors import UserError, one_line
from repro.settings.localizer_weights import FILES_OF_RESNET50, HUB_FILES, LocalizerWeights
from repro.settings.network_names import TIMM

ANSWER_SECONDS = 10.0
"""How long a server is waited for."""


def check_weights(weights: LocalizerWeights, *, needed: bool) -> Diagnosis:
    """Returns whether weights are on this machine, or else whether it can download them.

    Nothing is downloaded.

    Args:
        weights: Weights of a localizer.
        needed: Whether a run would fail without them; otherwise their absence is only worth a note.
    """
    check, mend = str(weights), _mend(weights)
    try:
        weights = _with_tag(weights)
        file = weights.file()
        damaged = file is not None and weights.is_damaged(file)
    except UserError as error:
        return Diagnosis(check, "wrong", error.what, error.mend)
    except OSError as error:
        return Diagnosis(check, "wrong", f"cannot be read: {one_line(error)}", mend)
    if damaged:
        return Diagnosis(check, "wrong", f"{file} is cut off, or another file", f"remove it; {mend}")
    if file is not None:
        return Diagnosis(check, "ok", str(file))
    verdict, found = _absent(weights, needed)
    return Diagnosis(check, verdict, found, mend)


def _absent(weights: LocalizerWeights, needed: bool) -> tuple[str, str]:
    """Returns the verdict on weights that are not there, and the text that says so."""
    if weights.network == "checkpoint":
        return "wrong" if needed else "note", "is not there"
    if not needed:
        return "note", "not here; downloaded at the first use, where there is a network"
    if trouble := _trouble_of(_address(weights)):
        return "wrong", f"not here, and cannot be downloaded from here ({trouble})"
    return "note", "not here; the first run that needs them can download them from here"


def _mend(weights: LocalizerWeights) -> str:
    if weights.network == "checkpoint":
        return "put it where this machine sees it"
    where = "on a machine with a network, $SALMASK_CACHE naming a folder that this one sees"
    return f"{weights.fetched_by} {where}; or localizer.network=efficientnet-lite0"


def _with_tag(weights: LocalizerWeights) -> LocalizerWeights:
    """Returns the weights of a timm model under their full name, as a run may leave out the default tag.

    Raises:
        UserError: torchvision or timm knows no such weights, or the Hub does not have them.
    """
    if weights.network == "resnet50" and weights.weights not in FILES_OF_RESNET50:
        mend = f"one of {', '.join(FILES_OF_RESNET50)}"
        raise UserError(f"localizer.weights={weights.weights} is unknown for resnet50", mend=mend)
    if not weights.network.startswith(TIMM):
        return weights
    from timm.models import get_pretrained_cfg

    try:
        config = get_pretrained_cfg(weights.network.removeprefix(TIMM))
    except RuntimeError as error:  # an unknown tag
        raise UserError(one_line(error), mend="timm.list_models(pretrained=True) has the names") from error
    if config is None or not config.hf_hub_id:
        raise UserError(f"{weights.network} has no weights on the Hub", mend="localizer.weights=random, or another")
    return LocalizerWeights(str(config.hf_hub_id))


def _address(weights: LocalizerWeights) -> str:
    """Returns the address that weights are downloaded from."""
    if weights.network == "resnet50":
        from torchvision.models import get_model_weights

        return str(get_model_weights("resnet50")[weights.weights].url)
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return f"{hub}/{weights.network}/resolve/main/{HUB_FILES[0]}"


def _trouble_of(address: str) -> str:
    """Returns why a file cannot be downloaded, by a HEAD request; empty if it can."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=ANSWER_SECONDS):
            return ""
    except (OSError, http.client.HTTPException) as error:
        return reason_of(error)
