"""The list of packages in Kaggle's image: what the two lists that it is built from name, in one spelling."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("kaggle_packages", ROOT / "requirements/kaggle_packages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_way_to_name_a_package_is_read(script):
    freeze = "# by hand\nPyWavelets==1.9.0\nen_core_web_sm @ https://x/en-3.8.0.whl#sha256=1\ntorch==2.10.0+cu128\n"
    asked = "google-adk[a2a,eval]>=1.21.0\nfury<2  # a reason\ngit+https://github.com/a/segment-anything.git\n\npath.py\n"
    assert script.names_of(freeze) == {"pywavelets", "en-core-web-sm", "torch"}
    assert script.names_of(asked) == {"google-adk", "fury", "segment-anything", "path-py"}
    assert set(script.REMOVED).isdisjoint(script.packages(f"{script.REMOVED[0]}==1.0", ""))


def test_the_list_is_of_the_sources_that_the_script_names_and_holds_what_kernels_import(script):
    lines = script.TARGET.read_text(encoding="utf-8").splitlines()
    assert [line.removeprefix("# ") for line in lines[1:3]] == [script.COLAB, script.KAGGLE]
    names = lines[3:]
    assert names == sorted(set(names))
    image = script.TARGET.with_name("kaggle-image.in").read_text(encoding="utf-8")
    assert script.names_of(image) <= {*names, "opencv-python-headless"}
    assert {"requests", "six", "attrs", "urllib3", "pywavelets", "catboost", "kornia"} <= set(names)
    assert not {"iterative-stratification", "pytorch-metric-learning", "hydra-core", "faiss-cpu"} & set(names)
