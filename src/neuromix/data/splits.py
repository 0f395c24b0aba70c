"""Fixed splits: the parts that a data set lacks are cut off its training part, the same in every run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from neuromix.core.errors import DataError, UnknownNameError

Rows = npt.NDArray[np.int64]  # [N], positions in a data set; or the class of each position

TEST_SHARE = 0.15  # of all rows
VALIDATION_SHARE = 0.1  # of the rows left for training
SPLIT_SEED = 20240  # never changes: figures are comparable only on the same test rows


def require_part(part: str, parts: Iterable[str]) -> str:
    """The name of a part, checked.

    Raises:
        UnknownNameError: no such part.
    """
    if part not in parts:
        raise UnknownNameError("split", part, parts)
    return part


def complete(
    parts: Mapping[str, Rows],
    labels: Rows,
    classes: Sequence[str],
    *,
    test: float = TEST_SHARE,
    validation: float = VALIDATION_SHARE,
) -> dict[str, Rows]:
    """Adds what is missing of `test` and `validation` by cutting stratified shares off `train`.

    Test rows are cut first, so they do not depend on whether there is a validation part. Parts that are there
    stay as they are; so a given test part never selects anything.

    Args:
        parts: "train" and perhaps "validation" and "test" -> rows.
        labels: [N], int64, the class of every row.
        classes: names of the classes, for messages.
        test: share of the training rows, in (0, 1).
        validation: share of the rows that then remain, in (0, 1).

    Returns:
        train, validation and test, disjoint where `parts` are.

    Raises:
        DataError: a class has too few rows to be in every part.
    """
    whole = dict(parts)
    for name, share in (("test", test), ("validation", validation)):
        if name not in whole:
            whole["train"], whole[name] = stratified(whole["train"], labels, classes, share)
    return {name: whole[name] for name in ("train", "validation", "test")}


def stratified(rows: Rows, labels: Rows, classes: Sequence[str], share: float) -> tuple[Rows, Rows]:
    """Cuts about `share` of every class off `rows`, at least one row of each and never all.

    Returns:
        (the rest, the share), each ascending.

    Raises:
        DataError: a class with a single row.
    """
    # RandomState is frozen by NumPy's compatibility policy; default_rng may draw otherwise some day.
    random = np.random.RandomState(SPLIT_SEED)
    kept, cut = [], []
    for label in np.unique(labels[rows]):
        members = random.permutation(rows[labels[rows] == label])
        if len(members) < 2:
            raise DataError(
                f"class {classes[label]!r} has too few samples to cut a test and a validation part off; "
                "give at least 3 of each class, or these parts themselves"
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        cut.append(members[:count])
        kept.append(members[count:])
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(cut))


def few_of_each(rows: Rows, labels: Rows, classes: Sequence[str], count: int) -> Rows:
    """So many rows of every class, the same in every run; of another count more of these, or some of them.

    Args and returns as `stratified`.

    Raises:
        DataError: a class has fewer.
    """
    random = np.random.RandomState(SPLIT_SEED)
    kept = []
    for label in np.unique(labels[rows]):
        members = random.permutation(rows[labels[rows] == label])
        if len(members) < count:
            raise DataError(
                f"class {classes[label]!r} has {len(members)} training samples; asked for {count}"
            )
        kept.append(members[:count])
    return np.sort(np.concatenate(kept))
