"""Learning rate by epoch."""

from planners.plan import Training

POLY_EXPONENT = 0.9  # Isensee et al. 2021, Methods; nnU-Net v2.8.1 PolyLRScheduler


def learning_rate(training: Training, epoch: int) -> float:
    """Give the learning rate of an epoch: linear warm-up, then polynomial decay to zero (or constant).

    Args:
        training: ``learning_rate``, ``epochs``, ``schedule`` and ``warm_up`` (in epochs) are used.
        epoch: from 0.
    """
    if epoch < training.warm_up:
        return training.learning_rate * (epoch + 1) / (training.warm_up + 1)
    if training.schedule == "constant":
        return training.learning_rate
    passed = (epoch - training.warm_up) / max(training.epochs - training.warm_up, 1)
    return training.learning_rate * (1 - passed) ** POLY_EXPONENT
