"""Both sides of tests/template/test_kaggle_image.py, each a process under versions of its own.

python tests/template/kaggle_image.py make FOLDER TASK ...     here: bundles and their predictions, and stacks
    python tests/template/kaggle_image.py ask FOLDER TASK ...    there: what the same bundles say

| file of a case | written by | holds |
|---|---|---|
| `bundle/`, `mount/` | make | what a kernel finds on Kaggle |
| `expected.parquet` | make | what stage 03 or the stack says of the test rows |
| `out/` | ask | predictions.parquet, submission.csv |
"""

import os
import shutil
import sys
from pathlib import Path

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
TESTS = Path(__file__).parents[1]
PROJECT = TESTS.parent / "<<cookiecutter.comp_name>>"
sys.path[:0] = [str(PROJECT), str(TESTS / "project"), str(TESTS)]
os.environ["BAKED_PROJECT"] = str(PROJECT)
STACKED = "multilabel"


def make(folder: Path, tasks: list[str]) -> None:
    import pandas as pd
    from rehearsals import prepare_bundled

    for task in tasks:
        half = "true" if task == "binary" else "false"  # in full, versions alone can make a difference
        config = prepare_bundled(
            folder / "projects" / task, task, f"kaggle.half={half}", "inference.tta=[identity,hflip]"
        )
        stored = pd.read_parquet(config.root / "runs/baseline/test.parquet")
        lay_out(folder / task, config, stored)
        if task == STACKED:
            make_stacks(folder, config)


def make_stacks(folder: Path, config) -> None:
    """A case of each blender: what a second level learned here must be read there."""
    import pandas as pd

    from src.artifacts import read_json, write_json
    from src.ensemble.apply import apply_stack
    from src.ensemble.members import find_members
    from src.ensemble.report import stack_runs
    from src.inference.oof import predict_run
    from src.kernel.bundle import build_bundle
    from src.rawfiles import listing
    from src.steps import run_of, stack_step
    from src.training.launch import train_run

    listing.cache_clear()
    second = config.model_copy(update={"name": "second", "seed": 7})
    train_run(run_of(second), (0, 1))
    predict_run(run_of(second), (0, 1))
    folders, _ = find_members(config)
    step = stack_step(config, folders)
    stack_runs(step, config, folders)
    path = config.root / "stacks/stack/stacker.json"
    stacker, outputs = read_json(path), read_json(config.root / "data/dataset.json")["outputs"]
    tests = [pd.read_parquet(config.root / "runs" / name / "test.parquet") for name in stacker["members"]]
    config = config.model_copy(update={"submit": config.submit.model_copy(update={"source": "stack"})})
    for blender in stacker["blenders"]:
        write_json(path, stacker | {"kept": blender})
        step.done()  # a bundle is made of files that are as their stage left them
        build_bundle(config, config.root / "kaggle/bundle")
        said = apply_stack(stacker, [table[outputs].to_numpy() for table in tests], candidate=blender)
        stored = pd.DataFrame(said, columns=outputs)
        stored.insert(0, "id", tests[0]["id"])
        lay_out(folder / f"stack by {blender}", config, stored)


def lay_out(case: Path, config, stored) -> None:
    shutil.copytree(config.root / "kaggle/bundle", case / "bundle")
    (case / "mount").symlink_to(config.root / "data/raw", target_is_directory=True)
    stored.to_parquet(case / "expected.parquet")


def ask(folder: Path, tasks: list[str]) -> None:
    from src.kernel.run import predict_competition

    stacks = sorted(folder.glob("stack by *")) if STACKED in tasks else []
    for case in [*(folder / task for task in tasks), *stacks]:
        (case / "out").mkdir()
        predict_competition(case / "bundle", case / "mount", case / "out", keep=True)


if __name__ == "__main__":
    {"make": make, "ask": ask}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3:])
