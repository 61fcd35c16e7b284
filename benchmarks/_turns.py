"""Measures things in turns, so that what slows the machine slows all of them."""

import dataclasses
import statistics


def take_turns(tasks, turns):
    """Measures tasks in turns; the order moves on by one from turn to turn.

    Args:
        tasks: {name: function () -> what it measured}.
        turns: number of turns.

    Returns:
        {name: list of `turns` results}.
    """
    names, times = list(tasks), {name: [] for name in tasks}
    for turn in range(turns):
        for offset in range(len(names)):
            name = names[(turn + offset) % len(names)]
            times[name].append(tasks[name]())
    return times


@dataclasses.dataclass(frozen=True)
class Spread:
    """A median with the quartiles around it."""

    median: float
    low: float
    high: float

    def __format__(self, spec):
        """Formats the three numbers alike."""
        return f"{self.median:{spec}} ({self.low:{spec}}-{self.high:{spec}})"


def spread(values):
    """Returns the median and the quartiles of two or more values."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratio(times, base):
    """Returns the spread of the ratios of times of the same turns."""
    return spread([time / other for time, other in zip(times, base, strict=True)])
