"""What is fast and what is not: ratios against other libraries in interleaved rounds, written into
docs/benchmarks.md.

    python benchmarks/speed.py                    # everything, then the page and its picture
    python benchmarks/speed.py loader predict     # some: loader, loop, predict, growth, shares
    python benchmarks/speed.py gpu                # the loop on a CUDA device
    python benchmarks/speed.py write              # the page alone, from what was measured before

Numbers are kept in measured/speed/, and a subject that is not there keeps its section of the page. Each is a
median of five rounds, by CPU seconds of one thread; the demo's stages (shares) by the clock, on all cores.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from statistics import median
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before numpy: with two threads on busy cores nothing can be compared

from speeds import pictures  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
KEPT, PAGE = ROOT / "benchmarks" / "measured" / "speed", ROOT / "docs" / "benchmarks.md"
IMAGES = PAGE.parent / "images"
SUBJECTS = ("loader", "loop", "predict", "growth", "shares")
ASKED = ("gpu",)  # by name alone: it needs a CUDA device
HEADING = "## Speed"
ABOUT = (
    "Written by `benchmarks/speed.py`, by CPU seconds of one thread (the demo's stages by the clock), on a "
    "core of a shared Xeon with the other one at work: believe the ratios, which come from interleaved "
    "rounds, more than the rates."
)


def main() -> None:
    """Measure the subjects asked for, then write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subjects", nargs="*", choices=[*SUBJECTS, *ASKED, "write", []])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    for name in arguments.subjects or SUBJECTS:
        if name != "write":
            measure(name, arguments.rounds)
    write()


def measure(name: str, rounds: int) -> None:
    """Measure one subject and keep what was found."""
    import torch

    torch.set_num_threads(1)
    found = importlib.import_module(f"speeds.{name}").measure(rounds)
    found |= {"rounds": rounds, "load": os.getloadavg()[0], "cores": os.cpu_count()}
    (KEPT / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def write() -> None:
    """Put a section for every subject that was measured into the page, each in its place, and draw the
    loader's picture."""
    before, _, after = PAGE.read_text(encoding="utf-8").partition(HEADING + "\n")
    old, after = (after + "\n## ").split("\n## ", 1)
    sections = {part.splitlines()[0]: "### " + part.strip() for part in old.split("\n### ")[1:]}
    for name in (*SUBJECTS, *ASKED):
        path = KEPT / f"{name}.json"
        if path.exists():
            section = SECTIONS[name](json.loads(path.read_text(encoding="utf-8")))
            sections[section.splitlines()[0].removeprefix("### ")] = section
        elif name in SUBJECTS:
            print(f"{name} was not measured: its section stays as it is", file=sys.stderr)
    after = after.removesuffix("\n## ")
    text = "\n\n".join([before.rstrip(), HEADING, ABOUT, *sections.values()]) + "\n"
    PAGE.write_text(text + (f"\n## {after}" if after else ""), encoding="utf-8")


def loader_section(found: dict[str, Any]) -> str:
    """The loader's table and picture."""
    lines = [
        "### From disk to the training tensor",
        f"Images a CPU second and core, 512 px JPEG to 224 px, one process; {found['note']}. Ours reads a "
        "256 px cache, which is built once, and hands uint8 to the network, which normalises inside; the "
        "line below does that on the CPU as well. Shards hold JPEGs of 256 px; without a cache a file of 512 "
        "px is decoded at half its size each time. Medians of "
        f"{found['rounds']} interleaved rounds, their least and most in brackets.",
    ]
    table = ["| pipeline | loader | images/s | times timm's |", "|---|---|--:|--:|"]
    for key, row in found["rows"].items():
        pipeline, loader = key.split(": ", 1)
        middle, least, most = row["times_timm"]
        cell = "1" if loader == "timm" else f"{middle:.1f} ({least:.1f} to {most:.1f})"
        table.append(f"| {pipeline} | {loader} | {row['images_per_second']:,.0f} | {cell} |")
    pictures.loaders(found["rows"], IMAGES)
    return "\n\n".join([*lines, "\n".join(table), "![images a second by loader](images/loaders.png)"])


def loop_section(found: dict[str, Any]) -> str:
    """The loop against the mathematics."""
    lines = [f"| loop, {name} | {a:.3f} ({b:.3f} to {c:.3f}) |" for name, (a, b, c) in found["rows"].items()]
    return "\n\n".join(
        [
            "### The loop over the mathematics",
            f"CPU time of an epoch over forward, backward and optimiser of the same network on tensors that "
            f"are there already; {found['note']}. The default loop also loads, augments, keeps an EMA, "
            f"watches losses and gradient norms. Medians of {found['rounds']} interleaved rounds.",
            "\n".join(["| what | times the bare steps |", "|---|--:|", *lines]),
        ]
    )


def gpu_section(found: dict[str, Any]) -> str:
    """The loop on a GPU."""
    lines = [
        f"| {backbone} | {a:.3f} ({b:.3f} to {c:.3f}) | {row['idle']:.0%} |"
        for backbone, row in found["rows"].items()
        for a, b, c in [row["loop"]]
    ]
    return "\n\n".join(
        [
            "### The loop on a GPU",
            f"Wall time of an epoch of JPEGs from the cache, standard pipeline, over the bare steps on "
            f"tensors that are on the device; {found['note']}. Idle: the share of an epoch in which no "
            f"kernel runs.",
            "\n".join(["| network | times the bare steps | idle |", "|---|--:|--:|", *lines]),
        ]
    )


def predict_section(found: dict[str, Any]) -> str:
    """Views and memory."""
    a, b, c = found["views"]
    cells = "; ".join(f"{int(n):,}: {size:.1f} MiB" for n, size in found["memory"].items())
    return "\n\n".join(
        [
            "### Prediction",
            f"Four views take {a:.2f} times as long as one ({b:.2f} to {c:.2f}; resnet18 at 96 px). Memory "
            f"beyond what the process held and the mapped images, by the number of test images "
            f"({found['note']}): {cells}.",
        ]
    )


def growth_section(found: dict[str, Any]) -> str:
    """Seconds by rows, and exponents."""
    sizes = sorted({int(n) for row in found["rows"].values() for n in row["seconds"]})
    head = " | ".join(f"{n:,}" for n in sizes)
    table = [f"| CPU seconds for so many rows | {head} | exponent | of the last two | memory a row |"]
    table.append("|---|" + "--:|" * (len(sizes) + 3))
    for name, row in found["rows"].items():
        cells = " | ".join(
            f"{row['seconds'][str(n)]:.2f}" if str(n) in row["seconds"] else "-" for n in sizes
        )
        a_row = f"{row['memory'][str(sizes[-1])] / sizes[-1] / 1000:.2f} kB"
        table.append(f"| {name} | {cells} | {row['exponent']:.2f} | {row['last']:.2f} | {a_row} |")
    about = (
        f"Medians of {found['rounds']} runs; what takes longer than twenty seconds is done once. A fixed "
        f"part makes the exponent of small sizes too low, so that of the last two stands beside it. Memory: "
        f"the most beyond what the process held and what is mapped from files, at the largest size."
    )
    pictures.growth(found["rows"], IMAGES)
    picture = "![CPU seconds by rows](images/growth.png)"
    return "\n\n".join(["### Growth with the rows", about, "\n".join(table), picture])


def shares_section(found: dict[str, Any]) -> str:
    """Seconds of each stage of the demo, and the share of other work."""
    rounds, rows = found["stages"], []
    for target in [*(name for name in dict.fromkeys(s["target"] for s in rounds[0]) if name != "all"), "all"]:
        mine = [[s for s in stages if s["target"] == target] for stages in rounds]
        seconds = median(sum(s["seconds"] for s in stages) for stages in mine)
        idle = median(
            1 - sum(s["busy"] for s in stages) / sum(s["seconds"] for s in stages) for stages in mine
        )
        times = len(mine[0])
        starts = [median(stages[n]["first"] or 0.0 for stages in mine) for n in range(times)]
        works = any(starts) and target != "all"
        first = ", ".join(f"{value:.1f}" for value in starts) if works else "-"
        rows.append(f"| {target} | {times} | {seconds:.1f} | {first} | {idle:.0%} |")
    about = (
        f"The stages of `make demo`, which is one call of `make all` with three experiments, by the clock, "
        f"on {found['cores']} cores; medians of {len(rounds)} rounds. First batch: seconds from the start of "
        f"the stage to the first training step or prediction, each time; the first stage that needs them "
        f"pays for the imports. Neither: the share of the time in which no process trains or predicts, "
        f"second levels included: imports, decoding, tables, pictures, checkpoints. All: the whole command."
    )
    head = ["| stage | times | seconds | first batch after | neither |", "|---|--:|--:|--:|--:|"]
    pictures.shares(rounds[-1], IMAGES)
    picture = "![the demo's stages, work and the rest](images/shares.png)"
    return "\n\n".join(["### Where the demo's seconds go", about, "\n".join([*head, *rows]), picture])


SECTIONS = {
    "loader": loader_section,
    "loop": loop_section,
    "gpu": gpu_section,
    "predict": predict_section,
    "growth": growth_section,
    "shares": shares_section,
}

if __name__ == "__main__":
    main()
