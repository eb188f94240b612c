"""Apply a stored stack (stacker.json) to members' predictions on new rows, as an inference kernel does.

Of the project's packages it needs only those imported here. Of libraries it needs numpy, and LightGBM,
XGBoost or torch if the kept candidate was fitted with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from src.ensemble.blenders import restored
from src.ensemble.features import StackFeatures

CALIBRATED = ", calibrated"  # suffix of a candidate's name


def apply_stack(
    stored: dict[str, Any],
    members: Sequence[Any],
    extra: Mapping[str, Sequence[Any]] | None = None,
    candidate: str | None = None,
) -> Any:
    """Predictions of a stored stack for new rows.

    `stored` is the content of stacker.json. `members` are the predictions of each of `stored["members"]`, in
    that order: (N, C) arrays, `Maps` or `Ranking`. `extra` maps each name in `stored["features"]`, if there
    are any, to the N values or texts of that column. `candidate` selects a candidate other than the kept one,
    for comparison. Raises ValueError if members or columns are missing.
    """
    name, names = candidate or stored["kept"], stored["members"]
    if len(members) != len(names):
        raise ValueError(f"{len(members)} predictions for {len(names)} members: {', '.join(names)}")
    plain = name.removesuffix(CALIBRATED)
    if plain == "best single":
        said = members[names.index(stored["best_single"])]
    elif stored["kind"] == "pixels":
        return _pixels(stored, members, plain)
    elif stored["kind"] == "pairs":
        return _pairs(stored, members, plain)
    else:
        features = None
        if stored["features"] is not None:
            lost = set(stored["features"]["names"]) - set(extra or {})
            if lost:
                raise ValueError(f"the stack looks at {', '.join(sorted(lost))}: give them in `extra`")
            features = StackFeatures.from_json(stored["features"]).encode(extra)
        said = restored(plain, stored["blenders"][plain]).apply(np.stack(members), features)
    if plain != name:
        said = restored("calibration", stored["calibrations"][plain]).apply(np.asarray(said)[None])
    return said


def _pixels(stored: dict[str, Any], members: Sequence[Any], name: str) -> Any:
    from src.ensemble.pixels import PixelStacker
    from src.maps import Maps

    if name == "lightgbm":
        return PixelStacker.from_json(stored).apply(list(members))
    if name == "weights":
        return Maps.weighted(list(members), np.array(stored["weights"]))
    return Maps.mean(list(members))


def _pairs(stored: dict[str, Any], members: Sequence[Any], name: str) -> Any:
    from src.ensemble.boosting import Stacker
    from src.ensemble.pairs import apply_pairs
    from src.tasks.retrieval import mean_ranking

    if name == "lightgbm":
        return apply_pairs(Stacker.from_json(stored), list(members))
    return mean_ranking(list(members), stored["candidates"])
