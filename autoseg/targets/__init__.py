"""What the network is asked for, by name."""

from autoseg.extensions import find
from autoseg.targets.affinity import AffinityTarget
from autoseg.targets.base import Target
from autoseg.targets.boundary import BoundaryTarget
from autoseg.targets.flow import FlowTarget
from autoseg.targets.foreground import ForegroundTarget
from autoseg.targets.losses import LOSSES
from autoseg.targets.regions import RegionsTarget
from autoseg.targets.semantic import SemanticTarget
from planners.labels import Labels
from planners.plan import Target as TargetRecord
from planners.plan import Training

__all__ = ["LOSSES", "TARGETS", "Target", "make_target"]

TARGETS: dict[str, type[Target]] = {
    "semantic": SemanticTarget,
    "regions": RegionsTarget,
    "foreground": ForegroundTarget,
    "boundary": BoundaryTarget,
    "flow": FlowTarget,
    "affinity": AffinityTarget,
}


def make_target(record: TargetRecord, labels: Labels, training: Training) -> Target:
    """Make the target of a configuration.

    Raises:
        OptionError: there is no target of that name.
    """
    return find(TARGETS, "target", record.name)(record, labels, training)
