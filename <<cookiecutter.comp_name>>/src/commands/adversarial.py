"""Adversarial validation: can a classifier tell the training images from the test images?

If it can, CV is measured on other images than the leaderboard is.

Reads   data/cache/ (stage 01)
Writes  data/adversarial.csv (how test-like each image is), data/adversarial.png (the most telling images),
        data/adversarial.json

The features are sizes, colours, sharpness and a small view of each image; no label is used.
"""

from src.cli import main

_MOST = 20_000  # images in total; more add no information
SIDE, VIEW = 12, 24  # side of the small view in pixels, and its PCA components
_FOLDS = 5
_SHOWN = 10
DIFFERENT, APART = 0.6, 0.8  # AUC thresholds of a hint and of a warning


def run(config, force):
    from src.steps import dataset_inputs

    dataset_inputs(config)  # raises if stage 01 has not been run
    tell_apart(config)


def tell_apart(config) -> None:
    """Fit the classifier, print the report, write the table and the figure."""
    import numpy as np
    import pandas as pd

    from src.artifacts import write_csv, write_json
    from src.config import UserError
    from src.data.images import open_images
    from src.report.pictures import draw_worst

    store = open_images(config)
    if len(store.test) < _FOLDS:
        raise UserError(
            f"data.test_images: the public test set has {len(store.test)} image(s), and at least {_FOLDS} "
            f"are needed to compare them with the training images; a hidden test set cannot be compared"
        )
    random = np.random.default_rng(config.seed)
    chosen = [sample(random, len(rows), _MOST // 2) for rows in (store.train, store.test)]
    positions = np.concatenate([store.train[chosen[0]], store.test[chosen[1]]])
    sizes = [store.train_sizes[i] for i in chosen[0]] + [store.test_sizes[i] for i in chosen[1]]
    looks = image_features(store.pixels, positions, sizes)
    is_test = np.repeat([0, 1], [len(part) for part in chosen])
    said, folds, gain = out_of_fold(looks, is_test, positions, config.seed)
    lines = _describe(looks, is_test, folds, gain)
    ids = [store.train_ids[i] for i in chosen[0]] + [store.test_ids[i] for i in chosen[1]]
    table = pd.DataFrame({"id": ids, "set": np.where(is_test, "test", "train"), "like_test": said.round(4)})
    folder = config.root / "data"
    write_csv(folder / "adversarial.csv", table.sort_values("like_test", ascending=False))
    error = float(np.std(folds, ddof=1) / np.sqrt(_FOLDS))
    write_json(
        folder / "adversarial.json",
        {"auc": float(np.mean(folds)), "standard_error": error, "images": len(table), "told_by": gain},
    )
    like_test = [i for i in np.argsort(-said) if not is_test[i]][:_SHOWN]
    unlike_train = [i for i in np.argsort(-said) if is_test[i]][:_SHOWN]
    like_train = [i for i in np.argsort(said) if not is_test[i]][:_SHOWN]
    places = [*unlike_train, *like_test, *like_train]
    captions = [f"{'test' if is_test[i] else 'train'} {ids[i][:14]}\n{said[i]:.2f}" for i in places]
    draw_worst(folder / "adversarial.png", [store.pixels[positions[i]] for i in places], captions)
    for line in lines:
        print(line)
    print(
        "data/adversarial.png: test images that give themselves away, training images most like test, and "
        "those least like it"
    )


def sample(random, count: int, most: int):
    """At most `most` of `count` row numbers, drawn at random, in ascending order."""
    import numpy as np

    return np.sort(random.permutation(count)[:most])


def image_features(pixels, positions, sizes: list[tuple[int, int]]):
    """Features per image (N, F): height, width, aspect ratio, colours, sharpness, and a small view.

    The small view is reduced to `VIEW` numbers by principal component analysis (PCA) over all images.
    """
    import cv2
    import numpy as np
    import pandas as pd
    from sklearn.decomposition import PCA

    rows, views = [], []
    for position, (height, width) in zip(positions, sizes, strict=True):
        image = np.ascontiguousarray(pixels[position])
        grey = image.mean(2).astype(np.float32)
        row = {"height": height, "width": width, "aspect": width / height}
        row |= {f"brightness {c}": image[..., c].mean() for c in range(image.shape[2])}
        row |= {f"contrast {c}": image[..., c].std() for c in range(image.shape[2])}
        row["colourfulness"] = image.astype(np.float32).std(2).mean()
        row["sharpness"] = np.log1p(cv2.Laplacian(grey, cv2.CV_32F).var())
        row["black"], row["white"] = (grey < 3).mean(), (grey > 252).mean()
        rows.append(row)
        views.append(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel())
    views = np.stack(views)
    count = min(VIEW, *views.shape)
    parts = PCA(count, random_state=0).fit_transform(views)
    view = pd.DataFrame(parts, columns=[f"view {i}" for i in range(count)])
    return pd.concat([pd.DataFrame(rows), view], axis=1).astype(np.float32)


def out_of_fold(looks, is_test, groups, seed: int):
    """Out-of-fold probabilities (N,) of being a test image, the AUC per fold, and the gain share per feature.

    Each image is predicted by a LightGBM model that has seen neither it nor its duplicates (`groups`).
    Features are in descending order of their share.
    """
    import lightgbm as lgb
    import numpy as np
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold

    parameters = {"objective": "binary", "learning_rate": 0.05, "num_leaves": 8, "min_data_in_leaf": 20}
    parameters |= {"seed": seed, "deterministic": True, "force_row_wise": True, "verbose": -1}
    parameters |= {"num_threads": 1, "feature_fraction": 0.7, "lambda_l2": 1.0}
    said, scores, gain = np.zeros(len(looks)), [], np.zeros(looks.shape[1])
    splitter = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    for learned, asked in splitter.split(looks, is_test, groups):
        data = lgb.Dataset(looks.iloc[learned].to_numpy(), is_test[learned])
        booster = lgb.train(parameters, data, 150)
        said[asked] = booster.predict(looks.iloc[asked].to_numpy())
        scores.append(roc_auc_score(is_test[asked], said[asked]))
        gain += booster.feature_importance("gain")
    order = np.argsort(-gain)
    shares = {looks.columns[i]: round(float(gain[i] / max(gain.sum(), 1e-12)), 4) for i in order}
    return said, scores, shares


def _describe(looks, is_test, folds: list[float], gain: dict[str, float]) -> list[str]:
    """The result in a few lines for the competitor."""
    import numpy as np

    auc, error = float(np.mean(folds)), float(np.std(folds, ddof=1) / np.sqrt(len(folds)))
    lines = [f"train or test, told by looks alone: AUC {auc:.3f} ± {error:.3f} (0.5: they look alike)"]
    if auc - 2 * error <= 0.5 or auc < DIFFERENT:
        lines.append("the test images look like the training images; CV speaks of the same kind of image")
        return lines
    how = "other images than" if auc >= APART else "somewhat other images than"
    lines.append(f"the test set holds {how} the training set: believe the leaderboard's level, CV for order")
    for name in list(gain)[:3]:
        ours, theirs = (float(looks[name][is_test == part].median()) for part in (0, 1))
        lines.append(f"  {name}: median {ours:.4g} in train, {theirs:.4g} in test ({gain[name]:.0%} of it)")
    return lines


if __name__ == "__main__":
    main(run, __doc__)
