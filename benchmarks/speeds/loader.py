"""Images a second and core, from a 512 px JPEG on disk to a 224 px training tensor: ours, timm's loader, and
cv2 with albumentations."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from speeds.rounds import interleave, ratio

IMAGES, BATCH, SIDE, SIZE, CACHED = 96, 32, 512, 224, 256
CROP = {"hflip": 0.5, "crop": "resized", "crop_scale": (0.5, 1.0), "crop_ratio": (0.8, 1.25)}
PIPELINES = {
    "standard": CROP | {"rotate": 15, "shift": 0.06, "zoom": 0.1, "brightness": 0.2, "contrast": 0.2},
    "crop, flip, cutout": CROP | {"cutout": 0.5},
}
WHAT = {
    "standard": "flip, resized crop, rotate/shift/zoom, brightness/contrast",
    "crop, flip, cutout": "flip, resized crop, cutout",
}


def write_images(folder: Path) -> list[Path]:
    """Photograph-like JPEGs of quality 90: smooth shapes, edges, grain; about 70 kB each."""
    rng, paths = np.random.default_rng(0), []
    (folder / "class").mkdir()
    for number in range(IMAGES):
        coarse = rng.integers(0, 256, (rng.integers(6, 24), rng.integers(6, 24), 3), dtype=np.uint8)
        image = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        for _ in range(12):
            x, y, r = rng.integers(0, SIDE, 3)
            cv2.circle(image, (int(x), int(y)), int(r) // 4 + 5, rng.integers(0, 256, 3).tolist(), -1)
        image += rng.normal(0, 5, image.shape)
        paths.append(folder / "class" / f"{number:04}.jpg")
        cv2.imwrite(str(paths[-1]), np.clip(image, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return paths


def ours(paths: list[Path], folder: Path, settings: dict[str, Any], storage: str = "packed") -> Any:
    """A pass of our loader over the store of these files, and that with images normalised on the CPU."""
    import torch

    from src.config import Config
    from src.data.images import ImageStore
    from src.data.loaders import TrainingRows, training_loader
    from src.data.packing import pack_images
    from src.data.pixels import open_pixels
    from src.models.network import Normalize

    config = Config(
        data={"image_size": SIZE, "cache_size": CACHED, "storage": storage},
        augment=settings,
        train={"batch_size": BATCH},
    )
    path, raw, n = folder / f"images.{config.data.ending}", paths[0].parent, len(paths)
    if not path.exists():
        pack_images(path, paths, (n, CACHED, CACHED, 3), config.data, "cache", print, raw)
    pixels = open_pixels(path, config.data, raw)
    store = ImageStore(pixels, np.arange(n), np.arange(0), [""] * n, [], (0.5,) * 3, (0.2,) * 3)
    rows = TrainingRows(np.arange(n), np.zeros((n, 10), np.float32), np.ones(n, np.float32))
    loader, sampler = training_loader(rows, store, config, 0, seed=0)
    normalise = Normalize((0.5,) * 3, (0.2,) * 3)

    def one_pass(normalised: bool = False) -> None:
        sampler.epoch += 1
        for images, _, _ in loader:
            assert (images.shape[1:], images.dtype) == ((3, SIZE, SIZE), torch.uint8)
            if normalised:
                normalise(images)

    return one_pass


def timms(folder: Path, settings: dict[str, Any], affine_too: bool = True) -> Any:
    """A pass of timm's own loader, its transforms and, for the standard pipeline, torchvision's affine one
    before them (timm has none that all images get)."""
    from timm.data import create_dataset, create_loader
    from torchvision import transforms

    turned = "rotate" in settings
    loader = create_loader(
        create_dataset("", str(folder)),
        (3, SIZE, SIZE),
        BATCH,
        is_training=True,
        use_prefetcher=False,
        num_workers=0,
        persistent_workers=False,
        scale=settings["crop_scale"],
        ratio=settings["crop_ratio"],
        hflip=settings["hflip"],
        color_jitter=(0.2, 0.2, 0.0) if turned else None,
        re_prob=settings.get("cutout", 0.0),
        re_mode="const",
        interpolation="bilinear",
    )
    if turned and affine_too:
        zoom = settings["zoom"]
        affine = transforms.RandomAffine(
            settings["rotate"],
            (settings["shift"],) * 2,
            (1 - zoom, 1 + zoom),
            interpolation=transforms.InterpolationMode.BILINEAR,
        )
        loader.dataset.transform = transforms.Compose([affine, *loader.dataset.transform.transforms])

    def one_pass() -> None:
        for images, _ in loader:
            assert images.shape[1:] == (3, SIZE, SIZE)

    return one_pass


def plain(paths: list[Path], settings: dict[str, Any]) -> Any:
    """The usual notebook: cv2.imread, an albumentations pipeline to a normalised tensor, torch's loader."""
    import albumentations as A
    from albumentations.pytorch import ToTensorV2
    from torch.utils.data import DataLoader, Dataset

    steps = []
    if "rotate" in settings:
        zoom, shift = settings["zoom"], settings["shift"]
        steps.append(
            A.Affine(
                rotate=(-settings["rotate"], settings["rotate"]),
                translate_percent=(-shift, shift),
                scale=(1 - zoom, 1 + zoom),
                border_mode=cv2.BORDER_REFLECT_101,
                p=1.0,
            )
        )
    steps.append(A.RandomResizedCrop((SIZE, SIZE), settings["crop_scale"], settings["crop_ratio"], p=1.0))
    steps.append(A.HorizontalFlip(p=settings["hflip"]))
    if "brightness" in settings:
        limits = ((-settings[key], settings[key]) for key in ("brightness", "contrast"))
        steps.append(A.RandomBrightnessContrast(*limits, p=1.0))
    if "cutout" in settings:
        side = (SIZE // 4, SIZE // 4)
        steps.append(A.CoarseDropout((1, 1), side, side, p=settings["cutout"]))
    pipeline = A.Compose([*steps, A.Normalize(), ToTensorV2()])

    class Files(Dataset):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, i: int) -> Any:
            image = cv2.cvtColor(cv2.imread(str(paths[i])), cv2.COLOR_BGR2RGB)
            return pipeline(image=image)["image"], 0

    loader = DataLoader(Files(), BATCH, shuffle=True, drop_last=True)

    def one_pass() -> None:
        for images, _ in loader:
            assert images.shape[1:] == (3, SIZE, SIZE)

    return one_pass


def measure(rounds: int) -> dict[str, Any]:
    """By pipeline and blender: images a CPU second, and how many times timm's."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        files, cache = Path(place, "files"), Path(place, "cache")
        files.mkdir()
        cache.mkdir()
        paths = write_images(files)
        size = sum(path.stat().st_size for path in paths) / len(paths)
        for name, settings in PIPELINES.items():
            print(f"loader, {name}:", flush=True)
            one_pass = ours(paths, cache, settings)
            blenders = {
                "timm": timms(files, settings),
                **(
                    {"timm, without rotate/shift/zoom": timms(files, settings, False)}
                    if "rotate" in settings
                    else {}
                ),
                "cv2 + albumentations": plain(paths, settings),
                "ours": one_pass,
                "ours, normalised on the CPU": lambda one_pass=one_pass: one_pass(normalised=True),
                "ours, from shards": ours(paths, cache, settings, "shards"),
                "ours, without a cache": ours(paths, cache, settings, "files"),
            }
            seconds = interleave(blenders, rounds)
            for blender, times in seconds.items():
                found[f"{name}: {blender}"] = {
                    "what": WHAT[name],
                    "images_per_second": IMAGES / statistics.median(times),
                    "times_timm": ratio(seconds, "timm", blender),
                }
    return {
        "rows": found,
        "note": f"{IMAGES} synthetic JPEGs, {SIDE} px, quality 90, {size / 1000:.0f} kB each",
    }
