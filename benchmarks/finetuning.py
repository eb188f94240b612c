"""Ways to fine-tune a pretrained network, compared on real photographs; written into docs/results.md.

    python benchmarks/tricks.py run FOLDER --weights FILE --only trashnet    # measures them
    python benchmarks/finetuning.py                                          # writes the table

Each way is a change of the first one, trained on the same folds and seeds (`make ablate`).
"""

from __future__ import annotations

from packs import ROOT
from tricks import LAB, MODES, measured

HEADING = "## Fine-tuning"
ABOUT = """

Written by `benchmarks/finetuning.py`: trashnet, {rows} photographs at {size} px in two folds,
mobilenetv2_100 from a local file (`model.weights`), AdamW at {lr}, {epochs} epochs; mean accuracy over
{pairs} pairs of fold and seed, and the paired difference to the first row with its standard error.

| way | accuracy | difference | |
|---|--:|--:|---|
"""


def main() -> None:
    """Put the table below its heading, before the real competitions."""
    page = ROOT / "docs" / "results.md"
    pack = LAB["trashnet"]
    found = measured("trashnet")
    lines = [f"| (1) a new head, all trained | {found['base']:.4f} | | |"]
    for way, change in MODES.items():
        row = found["changes"][change]
        said = f"{row['difference']:+.4f} ± {row['standard_error']:.4f}"
        lines.append(f"| {way} | {row['score']:.4f} | {said} | {row['verdict']} |")
    about = ABOUT.format(
        rows=pack.rows,
        size=pack.base["data"]["image_size"],
        lr=pack.base["train"]["lr"],
        epochs=found["epochs"],
        pairs=row["pairs"],
    )
    text, after = page.read_text(encoding="utf-8"), "## Real competitions"
    before, rest = text.split(after)
    before = before.split(HEADING)[0].rstrip()
    page.write_text(
        f"{before}\n\n{HEADING}{about}" + "\n".join(lines) + f"\n\n{after}{rest}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
