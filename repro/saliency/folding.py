"""Batch norm folded into convolutions: the same function of the input, with fewer passes over the activations."""

from collections import Counter

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class _Layers(fx.Tracer):
    """Traces a network down to its convolutions and batch norms, whichever library defines them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # torch.fx stops at torch's own layers only; timm's subclasses would be traced into.
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Folds each batch norm into the convolution before it, where nothing else reads that convolution's output.

    timm's batch norms also activate; their activation stays. Only for a network that is not trained any more, and
    whose `forward` torch.fx can trace.

    Args:
        network: Changed in place, and put in eval mode.

    Returns:
        The same network.
    """
    layers = dict(network.eval().named_modules())
    calls = [node for node in _Layers().trace(network).nodes if node.op == "call_module"]
    uses = Counter(node.target for node in calls)
    for node in calls:
        source = node.args[0]
        # Neither layer may be called twice, and nothing else may read the convolution's output, which folding changes.
        # `source` need not be a layer: it may be an addition, or the input.
        is_only_reader = source in calls and uses[source.target] == uses[node.target] == len(source.users) == 1
        norm, convolution = layers[node.target], layers.get(source.target)
        if is_only_reader and isinstance(norm, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d):
            network.set_submodule(source.target, fuse_conv_bn_eval(convolution, norm))
            network.set_submodule(node.target, nn.Sequential(*norm.children()))  # timm's: drop-out, activation
    return network
