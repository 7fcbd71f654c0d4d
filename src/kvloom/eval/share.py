"""The interval of a mean score between 0 and 1, of one cell or of many, that is also valid near 0 and 1.

The effective sample size is the number of independent yes-or-no answers with the same variance: less than the number of
samples where those of a document are alike, more where scores are not only 0 and 1. The interval is Wilson's with
continuity correction for that size. Source: Korn and Graubard 1998, who use Clopper and Pearson's interval. One success
and one failure are added before the variance is computed: equal scores do not prove that others cannot occur.
"""

from __future__ import annotations

from kvloom.eval.clusters import Clusters
from kvloom.eval.stats import Interval, wilson


def share(scores: Clusters) -> Interval:
    """95% interval of the mean score. Its width is never 0."""
    heaviest = float(scores.weights_D.max())
    mean = min(1.0, max(0.0, scores.mean))
    drawn_in = (mean + heaviest) / (1 + 2 * heaviest)
    spread = float((scores.left_D**2).sum()) + scores.seed_error**2
    spread += heaviest**2 * (drawn_in**2 + (1 - drawn_in) ** 2)
    return wilson(mean, drawn_in * (1 - drawn_in) * (1 + 2 * heaviest) / spread)
