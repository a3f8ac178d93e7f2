"""Medians, quartiles and ratios within a round."""

import random
import statistics
from dataclasses import dataclass

RESAMPLES = 2000


@dataclass
class Summary:
    median: float
    quartile_low: float
    quartile_high: float
    interval_low: float  # 95 % confidence interval of the median, by resampling rounds
    interval_high: float
    rounds: int


def quantile(ordered, share):
    """Linear between the two nearest, as most statistics programs have it."""
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def summarize(values):
    ordered = sorted(values)
    generator = random.Random(len(ordered))
    medians = sorted(statistics.median(generator.choices(ordered, k=len(ordered))) for _ in range(RESAMPLES))
    return Summary(
        median=statistics.median(ordered),
        quartile_low=quantile(ordered, 0.25),
        quartile_high=quantile(ordered, 0.75),
        interval_low=quantile(medians, 0.025),
        interval_high=quantile(medians, 0.975),
        rounds=len(ordered),
    )


def ratios(values, reference):
    """Round by round: both were measured within moments of each other."""
    return [value / other for value, other in zip(values, reference, strict=True)]
