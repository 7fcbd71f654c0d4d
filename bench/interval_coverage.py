"""How often the intervals of an evaluation hold the truth, and how often its test sees a loss: a table on stdout.

    python -m bench.interval_coverage [--draws 2000]

The tests hold the same promises on fewer draws. Worst case first: where coverage is below 92%, or a false alarm above
5%, the last line says so and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kvloom.eval.clusters import Clusters, clusters_of
from kvloom.eval.paired import paired
from kvloom.eval.share import share

SHARES = (0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98)
SIZES = (8, 12, 25, 50)
LOSSES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
QUESTIONS = (1, 5)
ALIKE = (0.0, 0.5, 1.0)
LEAST_COVERAGE, MOST_FALSE = 0.92, 0.05

Values = npt.NDArray[np.float64]


def fates(rng: np.random.Generator, truth: float, documents: int, questions: int, alike: float) -> Values:
    """(D, Q) ones and zeros; a question shares its document's fate as often as ``alike`` says."""
    own = rng.random((documents, questions)) < truth
    shared = rng.random((documents, 1)) < truth
    return np.where(rng.random((documents, questions)) < alike, shared, own).astype(np.float64)


def clusters(values_DQ: Values) -> Clusters:
    return clusters_of([[(f"{d:04}", (float(value),)) for d, row in enumerate(values_DQ) for value in row]])


def score_rows(draws: int) -> Iterator[tuple[str, float, float]]:
    """(case, worst coverage over the shares, mean half width in points)."""
    for documents in SIZES:
        for questions in QUESTIONS:
            for alike in ALIKE if questions > 1 else (0.0,):
                rng, held, widths = np.random.default_rng(documents), [], []
                for truth in SHARES:
                    found = [share(clusters(fates(rng, truth, documents, questions, alike))) for _ in range(draws)]
                    held.append(np.mean([each.low <= truth <= each.high for each in found]))
                    widths += [each.half_width for each in found]
                yield (
                    f"{documents} documents x {questions}, alike {alike}",
                    float(min(held)),
                    100 * float(np.mean(widths)),
                )


def loss_rows(draws: int) -> Iterator[tuple[str, float, float]]:
    """(case, coverage, share of draws that show a loss); one answer in twenty changes either way beside the loss."""
    for documents in SIZES:
        for questions in QUESTIONS:
            for loss in LOSSES:
                rng = np.random.default_rng(documents)
                held, shown = 0, 0
                for _ in range(draws):
                    lost = fates(rng, loss + 0.05, documents, questions, 0.5)
                    won = fates(rng, 0.05, documents, questions, 0.5) * (1 - lost)
                    found = paired(clusters(won - lost))
                    truth = 0.05 * (0.95 - loss) - (loss + 0.05)
                    held += found.difference.low <= truth <= found.difference.high
                    shown += found.p <= 0.05
                yield f"{documents} documents x {questions}, loss {loss}", held / draws, shown / draws


def false_alarms(draws: int) -> Iterator[tuple[str, float]]:
    """(case, share of draws that show a difference) where it is chance whose answer is whose."""
    for documents in SIZES:
        for questions in QUESTIONS:
            rng = np.random.default_rng(documents)
            found = [
                paired(clusters(fates(rng, 0.3, documents, questions, 0.5) * rng.choice((-1.0, 1.0), (documents, 1))))
                for _ in range(draws)
            ]
            yield f"{documents} documents x {questions}", float(np.mean([each.p <= 0.05 for each in found]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    draws = parser.parse_args().draws
    scores, losses, alarms = list(score_rows(draws)), list(loss_rows(draws)), list(false_alarms(draws))
    print("| scores | worst coverage | mean half width |\n| --- | --- | --- |")
    for case, held, width in sorted(scores, key=lambda row: row[1]):
        print(f"| {case} | {100 * held:.1f}% | {width:.1f} |")
    print("\n| differences | coverage | shown |\n| --- | --- | --- |")
    for case, held, shown in sorted(losses, key=lambda row: row[1]):
        print(f"| {case} | {100 * held:.1f}% | {100 * shown:.1f}% |")
    print("\n| no difference | shown all the same |\n| --- | --- |")
    for case, shown in sorted(alarms, key=lambda row: -row[1]):
        print(f"| {case} | {100 * shown:.1f}% |")
    noise = 2 * np.sqrt(0.06 / draws)
    least, most = min(row[1] for row in (*scores, *losses)), max(shown for _, shown in alarms)
    good = least >= LEAST_COVERAGE - noise and most <= MOST_FALSE + noise
    print(f"\n{'Holds' if good else 'Does not hold'}: coverage {100 * least:.1f}%, false alarms {100 * most:.1f}%.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
