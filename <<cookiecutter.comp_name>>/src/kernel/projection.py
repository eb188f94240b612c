"""Projection of a rehearsal to the hidden test set: whether its time, memory and disk use fit into Kaggle's
limits."""

from __future__ import annotations

from typing import Any

from src.artifacts import read_json
from src.config import Config
from src.kernel.pace import PACE
from src.kernel.run import PIECE, SPARE
from src.kernel.time_guard import PLANS, SAFE
from src.kernel.verdict import DISK, MEMORY, Case

CORES = 4  # of a Kaggle session; the local machine may read images with more
ROOM = 0.8  # the share of the memory that may be used, since hidden images may be larger
FULL, CHEAPEST = str(PLANS[0]), str(PLANS[-1])
_Answer = tuple[list[str], list[str]]  # lines of the report, and lines about what does not fit


def projection(config: Config, cases: list[Case], here: int) -> tuple[list[str], bool]:
    """Time, peak memory and disk use of the hidden test set against Kaggle's limits; whether all of it fits.

    Returns report lines and a flag. The number of images is `kaggle.hidden_images`, or `here` (the local test
    images) if that is null.
    """
    by_name = {case.name: case for case in cases}
    path = by_name["hidden"].outcome.working / PACE
    if not path.is_file():  # a custom kernel, or a failed one, which its case reports
        unknown = f"the kernel left no {PACE}, as the one of this project does: whether the hidden test set"
        return [f"{unknown} fits into {config.kaggle.hours:g} h and {MEMORY:,} MiB is not known"], True
    pace, images = read_json(path), config.kaggle.hidden_images or here
    parts = (time_of(config, pace, images), memory_of(cases, pace, images), disk_of(by_name, images))
    known = config.kaggle.hidden_images is not None
    guess = "" if known else " (as many as are here: what does the competition say? kaggle.hidden_images)"
    lines = [f"a hidden test of {images:,} images{guess}:", *(line for told, _ in parts for line in told)]
    wrong = [f"error: {line}" for _, lines in parts for line in lines]
    return lines + wrong, not wrong


def time_of(config: Config, pace: dict[str, Any], images: int) -> _Answer:
    """Hours under every plan against a safe share of `kaggle.hours`, since Kaggle's machine may be slower."""
    hours, reading = config.kaggle.hours, pace["reading"] * max(1.0, pace["cores"] / CORES)
    networks = {plan: seconds / config.kaggle.network_speedup for plan, seconds in pace["networks"].items()}
    once, apart = pace["started"] + SPARE, reading + pace["writing"]
    needed = {plan: (once + images * (apart + networks[plan])) / 3600 for plan in networks}
    fits = next((plan for plan in needed if needed[plan] <= SAFE * hours), None)
    most = {
        plan: max(0, int((3600 * SAFE * hours - once) / (apart + networks[plan])))
        for plan in (FULL, CHEAPEST)
    }
    lines = [
        f"- {needed[FULL]:.2f} of {hours:g} h: an image takes {1000 * (apart + networks[FULL]):.3g} ms, "
        f"{1000 * reading:.3g} to read it and {1000 * networks[FULL]:.3g} in the networks "
        f"({1000 * networks[CHEAPEST]:.3g} with {CHEAPEST}), over {pace['images']:,} images on this machine",
        f"- {most[FULL]:,} images fit into {SAFE:.0%} of {hours:g} h, and {most[CHEAPEST]:,} with {CHEAPEST}",
    ]
    if fits is None:
        return lines, [
            f"{images:,} images take {needed[CHEAPEST]:.2f} h even with {CHEAPEST}, and kaggle.hours is "
            f"{hours:g}: bundle fewer members (stack.members) or smaller ones (model.backbone, "
            f"data.image_size); where Kaggle's {config.kaggle.machine_shape} runs networks N times as fast "
            f"as this machine, set kaggle.network_speedup to N"
        ]
    if fits != FULL:
        lines.append(
            f"- that is too long: the kernel would go on with {fits} ({needed[fits]:.2f} h); to choose for "
            f"yourself, bundle fewer members or views (stack.members, inference.tta)"
        )
    return lines, []


def memory_of(cases: list[Case], pace: dict[str, Any], images: int) -> _Answer:
    """Peak memory: that of one image, plus each image that is in memory at the same time, plus growth per
    image."""
    by_name = {case.name: case for case in cases}
    one = by_name["one row"].outcome.memory
    held = max(0.0, pace["peak"] - one) / max(1, pace["piece"] - 1)
    others = max(case.outcome.memory for case in cases if case.name != "hidden")
    memory = max(others, one + held * min(images, PIECE) + pace["growth"] * images)
    lines = [f"- peak memory {memory:,.0f} of {MEMORY:,} MiB"]
    if memory < ROOM * MEMORY:
        return lines, []
    return lines, [
        f"memory: {held:.3g} MiB for each of up to {PIECE} images held together and {pace['growth']:.3g} MiB "
        f"more with every image seen, are too much: lower data.image_size, bundle fewer members, or find "
        f"what keeps the images (data.preprocess?)"
    ]


def disk_of(by_name: dict[str, Case], images: int) -> _Answer:
    """Disk use of the working folder, extrapolated from a run with one row and a run with many rows."""
    many, one = by_name["hidden"], by_name["one row"]
    more = (many.outcome.disk - one.outcome.disk) / max(1, many.images - one.images)
    disk = one.outcome.disk + max(0.0, more) * images
    lines = [f"- working folder {disk:,.1f} of {DISK:,} MiB"]
    return lines, [] if disk < DISK else [f"the kernel would fill the working folder with {disk:,.0f} MiB"]
