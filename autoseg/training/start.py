"""What a training starts from: weights of another one, and parts of the network that stay as they are."""

from collections.abc import Sequence

from torch import nn

from autoseg.errors import RunFolderError
from autoseg.networks.checkpoint import load_weights, put_weights, weights_digest
from autoseg.progress import say
from autoseg.run_folder import RunFolder
from autoseg.training.step_downs import has_stepped_down
from planners.plan import Configuration
from planners.records import PlanError


def put_initial_weights(network: nn.Module, run: RunFolder, configuration: Configuration) -> None:
    """Give a network the initial weights of its configuration, where the plan names any.

    They were fitted to the network of the plan. Where a step down for want of memory has changed that since (a smaller
    patch has fewer stages), the parts that are left take theirs, and the others stay as they were drawn.

    Args:
        network: changed in place.
        run: keeps the weights.
        configuration: its ``training.initial_weights`` is their digest; empty: the network stays as it is.

    Raises:
        RunFolderError: the file is missing or is another one than the plan says.
        ModelError: it is damaged, or does not fit a network that was never stepped down, or fits in no part.
    """
    wanted = configuration.training.initial_weights
    if not wanted:
        return
    path = run.initial_weights(configuration.name)
    if not path.exists():
        raise RunFolderError(
            f"{path} is missing: {configuration.name} starts from it (digest {wanted}). Give --init again, or plan anew"
        )
    found = weights_digest(path)
    if found != wanted:
        raise RunFolderError(
            f"{path} has digest {found}, but the plan starts {configuration.name} from {wanted}. "
            "Put the file back, or give --init again"
        )
    weights = load_weights(path)[0]
    if has_stepped_down(run, configuration.name):
        drawn = network.state_dict()
        fitting = {name: value for name, value in weights.items() if name in drawn and value.shape == drawn[name].shape}
        if fitting and len(fitting) < len(drawn):
            new = len(drawn) - len(fitting)
            say(f"  {configuration.name}: a step down has changed its network; {new} parts start without weights")
            weights = {**drawn, **fitting}
    put_weights(network, weights, path)


def freeze(network: nn.Module, beginnings: Sequence[str], place: str) -> list[nn.Parameter]:
    """Take the gradient from all parameters whose names begin with one of some texts.

    Norms have no running statistics here, so a frozen part does not change at all.

    Args:
        network: changed in place.
        beginnings: such as ``encoder`` or ``encoder.0``: whole parts of a dotted name.
        place: where they stand in the plan, for the message.

    Returns:
        The parameters that are trained, in the network's order.

    Raises:
        PlanError: no parameter begins so, or none would be left to train.
    """
    names = [name for name, _ in network.named_parameters()]
    for beginning in beginnings:
        if not any(_begins(name, beginning) for name in names):
            parts = dict.fromkeys(name.split(".")[0] for name in names)
            deeper = dict.fromkeys(".".join(name.split(".")[:2]) for name in names)
            raise PlanError(
                f"{place}: no part of the network is named {beginning!r}; "
                f"there are {', '.join(parts)}, and within them {', '.join(deeper)}"
            )
    trained = []
    for name, parameter in network.named_parameters():
        if any(_begins(name, beginning) for beginning in beginnings):
            parameter.requires_grad_(False)
        else:
            trained.append(parameter)
    if not trained:
        raise PlanError(f"{place}: {', '.join(beginnings)} is the whole network; leave a part to train, such as heads")
    return trained


def _begins(name: str, beginning: str) -> bool:
    return f"{name}.".startswith(beginning.removesuffix(".") + ".")
