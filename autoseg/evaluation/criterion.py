"""The criterion by which candidates are compared, how sure it is, and how sure a difference between two of them is."""

from autoseg.evaluation.metric_records import Interval
from autoseg.evaluation.overlap import Scores
from autoseg.evaluation.statistics import Difference, bootstrap_mean, paired_difference

CRITERION = "mean foreground Dice over out-of-fold predictions"

LUCK = 0.05  # the field's convention; see ``beats``


def case_values(scores: Scores) -> list[float | None]:
    """Give what each case says of the mean Dice: values whose mean over the cases is ``scores.mean_dice``.

    Where no structure is absent, it is the case's own mean Dice. Else structures are averaged over different cases, and
    a case in which only some are present says something of these alone: the mean of all, moved by how far the case lies
    from each structure's mean, as much as it counts there. None where nothing is present.

    Source: the infinitesimal jackknife (Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982, ch. 6).
    """
    means = [(index, mean) for index, mean in enumerate(scores.dice) if mean is not None]
    present = [sum(row.dice[index] is not None for row in scores.cases) for index in range(len(scores.structures))]
    measured = sum(row.mean_dice is not None for row in scores.cases)
    values: list[float | None] = []
    for row in scores.cases:
        found = [(value - mean) / present[index] for index, mean in means if (value := row.dice[index]) is not None]
        base = scores.mean_dice
        values.append(base + measured * sum(found) / len(means) if base is not None and found else None)
    return values


def interval_of(scores: Scores) -> Interval | None:
    """Give the mean Dice with its 95 % bootstrap interval over cases; None where nothing is measured."""
    return bootstrap_mean(case_values(scores))


def difference_of(first: Scores, second: Scores) -> Difference | None:
    """Compare two candidates on the same cases, in the same order: mean Dice of the first minus that of the second."""
    return paired_difference(case_values(first), case_values(second))


def beats(difference: Difference | None) -> bool:
    """Tell whether the first is better by more than luck: its interval and the sign-flip test both say so.

    With fewer than six cases the test cannot say so, whatever the difference.
    """
    return difference is not None and difference.low > 0 and difference.p < LUCK
