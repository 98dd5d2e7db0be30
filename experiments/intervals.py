"""What a few runs say of a mean: its 95 % interval by Student's t, and the difference that so many could detect."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL, POWER = 0.95, 0.8


class Summary(NamedTuple):
    """Of `count` values, or of differences of pairs.

    Attributes:
      mean, sd: sd is the sample's, with count - 1.
      half: half of the mean's 95 % interval, t sd / sqrt(count).
      detectable: the smallest true mean that a two-sided t test at 5 % tells from 0 in four of five such experiments,
        were sd the true one: (t(0.975) + t(0.8)) sd / sqrt(count). sd, half and detectable are NaN for one value.
    """

    mean: float
    sd: float
    half: float
    detectable: float
    count: int

    @property
    def low(self) -> float:
        """The interval's lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The interval's upper end."""
        return self.mean + self.half

    @property
    def decides(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def summary(values: Sequence[float]) -> Summary:
    """The Summary of independent values.

    Raises:
      ValueError: there is none.
    """
    count = len(values)
    if not count:
        raise ValueError("there are no values to summarise")
    mean = float(np.mean(values))
    if count == 1:
        return Summary(mean, math.nan, math.nan, math.nan, 1)
    sd = float(np.std(values, ddof=1))
    error = sd / math.sqrt(count)
    quantile, power = (float(stats.t.ppf(share, count - 1)) for share in (0.5 + LEVEL / 2, POWER))
    return Summary(mean, sd, quantile * error, (quantile + power) * error, count)
