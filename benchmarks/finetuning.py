"""Ways to fine-tune a pretrained network, compared on real photographs; written into docs/results.md.

    python benchmarks/finetuning.py run FOLDER --weights FILE    # FOLDER and FILE are those of packs.py
    python benchmarks/finetuning.py write

Each way is a change of the first one, trained on the same two folds and seeds (`make ablate`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packs import BUILD, ROOT
from tricks import ONE_CORE, PRETRAINED, compare, differences

PROJECT = BUILD / "finetuning"
BASE = {
    "task": {"metric": "accuracy"},
    "data": {"image_size": 96},
    "model": PRETRAINED,
    "train": {"optimizer": "adamw", "lr": 1e-3, "batch_size": 32, "epochs": 8, "ema": {"decay": 0.99}},
    "runtime": ONE_CORE,
}
MODES = {
    "(2) the head alone for two epochs, then all": "train.freeze_epochs=2",
    "(3) the backbone at a tenth of the rate": "train.backbone_lr=0.1",
    "(4) the three shallow stages frozen": "train.freeze_stages=3",
    "layer-wise decay by 0.75": "train.layer_decay=0.75",
    "(2) and (3)": "train.freeze_epochs=2 train.backbone_lr=0.1",
    "(3) and (4)": "train.backbone_lr=0.1 train.freeze_stages=3",
    "(2), (3) and (4)": "train.freeze_epochs=2 train.backbone_lr=0.1 train.freeze_stages=3",
    "(1) with batch norms frozen": "train.freeze_bn=true",
    "from scratch: no pretrained weights": "model.weights=null model.pretrained=false",
}
HEADING = "## Fine-tuning"
ABOUT = """

Written by `benchmarks/finetuning.py`: trashnet, 2,096 photographs at 96 px in two folds, mobilenetv2_100 from
a local file (`model.weights`), AdamW at 1e-3, eight epochs; mean accuracy over {pairs} pairs of fold and
seed, and the paired difference to the first row with its standard error.

| way | accuracy | difference | |
|---|--:|--:|---|
"""


def main() -> None:
    """Run the comparison, or write what it found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_subparsers(dest="what", required=True)
    run = what.add_parser("run")
    run.add_argument("folder", type=Path)
    run.add_argument("--weights", type=Path, required=True)
    what.add_parser("write")
    arguments = parser.parse_args()
    if arguments.what == "write":
        write(ROOT / "docs" / "results.md")
        return
    folder, weights = arguments.folder.resolve(), arguments.weights.resolve()
    compare(PROJECT, "trashnet", BASE, list(MODES.values()), 120, folder, weights)


def write(page: Path) -> None:
    """Put the table below its heading, before the real competitions."""
    found = {row["change"]: row for row in differences(PROJECT)}
    some = next(iter(found.values()))
    lines = [f"| (1) a new head, all trained | {float(some['base']):.4f} | | |"]
    for way, change in MODES.items():
        row = found[change]
        said = f"{float(row['difference']):+.4f} ± {float(row['standard_error']):.4f}"
        lines.append(f"| {way} | {float(row['score']):.4f} | {said} | {row['verdict']} |")
    text, after = page.read_text(encoding="utf-8"), "## Real competitions"
    before, rest = text.split(after)
    before = before.split(HEADING)[0].rstrip()
    table = f"{HEADING}{ABOUT.format(pairs=some['pairs'])}" + "\n".join(lines)
    page.write_text(f"{before}\n\n{table}\n\n{after}{rest}", encoding="utf-8")


if __name__ == "__main__":
    main()
