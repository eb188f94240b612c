"""The competition of the tests, which of these numbers are even, and a kernel that answers by a rule."""

from __future__ import annotations

from pathlib import Path

SLUG = "even-numbers"
CONFIG = """\
competition: {slug: even-numbers, title: Even numbers, kaggle_username: quickfox}
kaggle: {machine_shape: cpu}
"""

# Stands in for kernel/infer.py: answers by a rule of the bundle, on whatever test set is mounted.
KERNEL = """\
import csv, json, os
from pathlib import Path

inputs, working = (Path(os.environ[f"KAGGLE_{name}_DIR"]) for name in ("INPUT", "WORKING"))
manifest = next(inputs.rglob("manifest.json"))
print("bundle", json.loads(manifest.read_text())["bundle_hash"])
yes = json.loads((manifest.parent / "weights" / "rule.json").read_text())["yes"]
rows = list(csv.DictReader(open(next(inputs.rglob("test.csv")))))
with open(working / "submission.csv", "w") as out:
    out.write("id,label\\n")
    out.writelines(f"{row['id']},{yes if int(row['x']) % 2 == 0 else 0}\\n" for row in rows)
"""


def write_numbers(folder: Path, numbers: range) -> dict[str, str]:
    """A competition's files for these numbers to predict; gives the solution."""
    folder.mkdir(parents=True)
    ids = {f"n{number:03}": number for number in numbers}
    (folder / "train.csv").write_text("id,x,label\na,4,1\nb,5,0\n")
    (folder / "test.csv").write_text("id,x\n" + "".join(f"{name},{n}\n" for name, n in ids.items()))
    (folder / "sample_submission.csv").write_text("id,label\n" + "".join(f"{name},0\n" for name in ids))
    return {name: str(int(n % 2 == 0)) for name, n in ids.items()}
