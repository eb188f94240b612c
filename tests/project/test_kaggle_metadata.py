"""What is written for Kaggle and what may not leave home: names, metadata, manifests, scanned folders."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, write_config
from pydantic import ValidationError

from src.config import Config, UserError
from src.configfile import load_config
from src.kaggle import kernels
from src.kaggle.metadata import DatasetMetadata, KernelMetadata, kernel_metadata, write_metadata
from src.kaggle.names import code_ref, competition, dataset_ref, kernel_ref, title_of, train_ref
from src.kaggle.scan import (
    check_folder,
    copy_code,
    refuse_secret,
    refuse_secret_settings,
    refuse_secrets,
)
from src.submission.manifest import read_manifest, write_manifest


def config_of(slug: str = "leaf-disease", username: str = "quickfox", **kaggle) -> Config:
    return Config(competition={"slug": slug, "kaggle_username": username}, kaggle=kaggle)


def kernel_of(config: Config, internet: bool = False) -> KernelMetadata:
    return kernel_metadata(
        config, kernel_ref(config), "infer.py", internet=internet, datasets=(dataset_ref(config),)
    )


# --- names ---

SLUGS = ["leaf-disease", "LANL-Earthquake-Prediction", "isic-2024", "a", "x" * 80, "g2net--odd_name-", "2048"]


@pytest.mark.parametrize("slug", SLUGS)
def test_every_competition_gets_names_that_kaggle_takes_and_titles_that_lead_back_to_them(slug):
    slugify = pytest.importorskip("slugify", reason="comes with the kaggle client").slugify
    config = config_of(slug)
    refs = [
        dataset_ref(config),
        code_ref(config),
        kernel_ref(config),
        train_ref(config, 1),
        train_ref(config, 12),
    ]
    for ref in refs:
        owner, _, name = ref.partition("/")
        assert owner == "quickfox"
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name), name
        assert 6 <= len(name) <= 50
        assert slugify(title_of(ref)) == name
    assert len(set(refs)) == len(refs)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (config_of(slug=""), "competition.slug"),
        (config_of(username=""), "competition.kaggle_username"),
        (config_of(username="quick/fox"), "competition.kaggle_username"),
    ],
)
def test_what_the_config_lacks_is_named_by_its_key(config, named):
    with pytest.raises(UserError, match=named):
        competition(config), dataset_ref(config)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("machine_shape: NvidiaTeslaP100", "retired"),
        ("machine_shape: NvidiaL4x4", "default machine"),
        ("dataset: Leaf_Bundle", "lower-case"),
        ("kernel: leaf", "6 to 50"),
        ("hours: 13", "less than or equal to 12"),
        ("licence: MIT", "CC0-1.0"),
        ("internett: false", "internet"),
    ],
)
def test_a_kaggle_key_that_kaggle_would_misread_is_refused_with_its_reason(tmp_path, line, why):
    path = write_config(tmp_path, "baseline", f"kaggle:\n  {line}\n")
    with pytest.raises(UserError, match=why) as error:
        load_config(path)
    assert f"kaggle.{line.partition(':')[0]}" in str(error.value)


def test_a_code_competition_with_internet_is_refused(tmp_path):
    path = write_config(tmp_path, "baseline", "kaggle: {code_competition: true, internet: true}\n")
    with pytest.raises(UserError, match=r"kaggle\.internet=true: a code competition takes no kernel"):
        load_config(path)


# --- metadata ---


def test_kernel_metadata_writes_every_key_out(tmp_path):
    write_metadata(tmp_path, kernel_of(config_of()))
    written = json.loads((tmp_path / "kernel-metadata.json").read_text())
    assert written == {
        "id": "quickfox/leaf-disease-infer",
        "title": "Leaf Disease Infer",
        "code_file": "infer.py",
        "language": "python",
        "kernel_type": "script",
        "is_private": True,
        "enable_gpu": True,
        "enable_tpu": False,
        "enable_internet": False,
        "machine_shape": "NvidiaTeslaT4",
        "docker_image_pinning_type": "latest",
        "dataset_sources": ["quickfox/leaf-disease-bundle"],
        "competition_sources": ["leaf-disease"],
        "kernel_sources": [],
        "model_sources": [],
        "keywords": [],
    }


def test_a_kernel_without_a_gpu_says_so_twice():
    metadata = kernel_of(config_of(machine_shape="cpu"))
    assert (metadata.enable_gpu, metadata.machine_shape) == (False, "None")


KERNEL = kernel_of(config_of()).model_dump(mode="json")
DATASET = {
    "id": "quickfox/leaf-disease-bundle",
    "title": "Leaf Disease Bundle",
    "licenses": [{"name": "other"}],
    "subtitle": "Code and weights of one competition",
}


@pytest.mark.parametrize(
    "change",
    [
        {"enable_intenet": False},
        {"title": "Quite another"},
        {"id": "leaf-disease-infer"},
        {"dataset_sources": ["datasets/quickfox/leaf-disease-bundle"]},
        {"dataset_sources": ["quickfox/leaf-disease-bundle/3"]},
        {"competition_sources": ["c/leaf-disease"]},
        {"model_sources": ["google/gemma/pyTorch/2b"]},
        {"is_private": None},
        {"language": "Python"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_kernel_metadata_that_kaggle_would_take_for_something_else_is_refused(change):
    KernelMetadata(**KERNEL)
    with pytest.raises(ValidationError):
        KernelMetadata(**{**KERNEL, **change})


@pytest.mark.parametrize("key", KERNEL)
def test_no_key_of_kernel_metadata_may_be_left_to_kaggle(key):
    with pytest.raises(ValidationError, match=key):
        KernelMetadata(**{name: value for name, value in KERNEL.items() if name != key})


@pytest.mark.parametrize(
    "change",
    [
        {"licenses": []},
        {"licenses": [{"name": "other"}, {"name": "CC0-1.0"}]},
        {"title": "Leaf"},
        {"title": "x" * 51},
        {"id": "quickfox/leaf"},
        {"id": f"quickfox/{'x' * 51}"},
        {"subtitle": "too short"},
        {"isPrivate": False},
    ],
    ids=str,
)
def test_dataset_metadata_beyond_kaggles_limits_is_refused(change):
    DatasetMetadata(**DATASET)
    with pytest.raises(ValidationError):
        DatasetMetadata(**{**DATASET, **change})


# --- the scan of a folder ---


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, text in {"manifest.json": "{}", "weights/fold0.txt": "0.5", "src/main.py": "x = 1\n"}.items():
        (tmp_path / "bundle" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bundle" / name).write_text(text)
    return tmp_path / "bundle"


def test_a_clean_folder_passes_under_the_names_it_will_have(folder):
    (folder / "dataset-metadata.json").write_text("{}")  # the client keeps this one to itself
    assert check_folder(folder) == ("manifest.json", "src.zip", "weights.zip")


DRAWN = "8f3a1c09d7e24b65a0c4f1982e6b7d3051fa94ce"  # a secret of no service
SECRETS = {
    ".env": "SECRET=1",
    "src/.netrc": "machine api.wandb.ai",
    "weights/kaggle.json": "{}",
    "prod.env": "A=1",
    "src/.git/config": "",
    "src/__pycache__/main.pyc": "",
    "weights/model.tmp": "",
    "src/keys.py": f"KAGGLE_KEY = '{'0a' * 16}'",
    "src/login.json": json.dumps({"username": "quickfox", "key": "0a" * 16}),
    "notes.txt": f"token {'KGAT_' + '0a' * 16}",
    "src/track.py": f"os.environ['WANDB_API_KEY'] = '{'ab' * 20}'",
    "src/hub.py": f"login('hf_{'aB' * 17}')",
    "src/aws.yaml": f"id: {'AKIA' + 'A1' * 8}",
    "id_ed25519": "",
    "src/cert.txt": "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
    "src/login.py": f"wandb.login(relogin=True, key='{'ab' * 20}')",
    "notebook.ipynb": json.dumps({"source": [f'wandb.login(key="{DRAWN}")']}),
    "conf.yaml": f"optimizer: adam\nkaggle:\n  username: quickfox\n  key: {DRAWN[:32]}\n",
    "more.yaml": f"neptune_api_token: {DRAWN}\n",
    "src/comet.py": f"Experiment(api_key='{DRAWN[:25]}')",
    "src/ask.py": f"requests.get(url, headers={{'Authorization': 'Bearer {DRAWN}'}})",
    "run.sh": f"export MY_SECRET={DRAWN}\n",
    "src/say.py": "post('https://hooks.slack.com/" + "services/T0001/B0001/XXXX')",
    "src/tell.py": "post('https://discord.com/" + f"api/webhooks/1234/{DRAWN}')",
    "src/bell.py": "post('https://example.org/" + f"hooks/{DRAWN}')",
    "src/bot.py": f"start('123456789:{'aB3-_' * 7}')",
    "src/lab.txt": "glpat" + "-abcdefghij1234567890",
    "src/proxy.py": "proxy = 'http://me:" + "hunter2@example.org:8080'",
    "src/word.yaml": "password: 'hunter2!'",
    "yaml/word.yaml": "mail:\n  server: a\n  user: me\n  password: hunter2\n",
    "src/two.py": f"import wandb\n\n\nmine = '{DRAWN}'\nwandb.login(key=mine)\n",
    "src/hook.py": "post('https://maker.ifttt.com/" + "trigger/done/with/key/a-b-c-d-e-f')",
    "src/s3.cfg": f"aws_secret_access_key = {DRAWN[:20]}/{DRAWN[:19]}",
    "windows.txt": f"api_key = {DRAWN}",
}
HARMLESS = (
    "key = config.name; token = tokens[0]; secret = None; password: str = ''",
    "api_key = os.environ['WANDB_API_KEY']",
    "password = getpass.getpass()",
    "backbone: convnextv2_tiny.fcmae_ft_in22k_in1k  # the key: vit_base_patch16_224",
    "state['blocks.11.attn.key.weight'] = loaded['module.encoder.layer.11.attention.self.key.weight']",
    '"sha256": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"',
    "https://www.kaggle.com/competitions/cassava-leaf-disease-classification",
    "cache_key: efficientnet_b0_224_fold0_seed42",
    "key: <your key>, token=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_a_hidden_file_or_a_cache_is_refused_by_its_name(folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(SECRETS[name])
    named = {"src/.git/config": "src/.git", "src/__pycache__/main.pyc": "src/__pycache__"}.get(name, name)
    if name == "windows.txt":
        (folder / name).write_text(SECRETS[name], encoding="utf-16")
    with pytest.raises(UserError, match=f"^{re.escape(str(folder / named))}(, line 4)?: "):
        check_folder(folder)


@pytest.mark.parametrize("text", HARMLESS)
def test_a_name_without_a_secret_behind_it_is_none(text):
    refuse_secret("a.py", text)


def test_a_secret_is_found_at_the_end_of_a_long_text_and_between_two_pieces(folder, monkeypatch):
    monkeypatch.setattr("src.kaggle.scan.PIECE", 3000)
    for place in (2990, 9500):
        (folder / "long.csv").write_text("1,2,3\n" * (place // 6) + f"my_token={DRAWN}\n")
        with pytest.raises(UserError, match=r"long\.csv.*holds"):
            check_folder(folder)


def test_a_secret_in_the_config_is_named_by_its_key():
    refuse_secret_settings(Config().settings())
    with pytest.raises(UserError, match=r"tracking\.entity"):
        refuse_secret_settings({"a": 1, "tracking": {"entity": f"hf_{'x' * 34}"}})


def test_a_script_that_holds_a_secret_is_not_pushed(tmp_path, monkeypatch):
    """A kernel's script, and a training's with the job in it, go the same way."""
    monkeypatch.setattr(kernels, "call", lambda *_, **__: pytest.fail("the client was called"))
    with pytest.raises(UserError, match="wandb key"):
        kernels.push(KernelMetadata(**KERNEL), f"wandb.login(key='{DRAWN}')", tmp_path / "sent", 1.0)
    assert not (tmp_path / "sent").exists()


def test_links_in_the_code_are_named_and_not_followed(tmp_path):
    code = tmp_path / "src"
    (code / "deep" / "__pycache__").mkdir(parents=True)
    for name in ("deep/a.py", "deep/.env", "deep/__pycache__/a.pyc"):
        (code / name).write_text("x = 1\n")
    copy_code(code, tmp_path / "clean")
    assert [p.name for p in (tmp_path / "clean").rglob("*")] == ["deep", "a.py"]
    (tmp_path / "outside").mkdir()
    for target in (tmp_path / "outside", tmp_path / "none", code / "deep" / "a.py"):
        (code / "deep" / "link").symlink_to(target)
        with pytest.raises(UserError, match=r"deep/link: is a link to "):
            copy_code(code, tmp_path / "copy")
        assert not (tmp_path / "copy").exists()
        (code / "deep" / "link").unlink()


def test_a_secret_is_found_inside_an_archive(folder):
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.writestr("deep/notes.md", f"my token: hf_{'x' * 34}")
    with pytest.raises(UserError, match=r"more\.zip, in it deep/notes\.md: holds a Hugging Face token"):
        check_folder(folder)


def test_our_own_code_holds_nothing_that_looks_like_a_secret(tmp_path):
    import shutil

    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "kernel", tmp_path / "kernel", ignore=shutil.ignore_patterns("__pycache__"))
    refuse_secrets(tmp_path)


def test_fifty_files_at_the_top_are_taken_and_one_more_is_not(folder):
    for number in range(47):
        (folder / f"{number}.txt").write_text("x")
    assert len(check_folder(folder)) == 50
    (folder / "one-too-many.txt").write_text("x")
    with pytest.raises(UserError, match="51 files and folders at its top, Kaggle takes 50"):
        check_folder(folder)


def test_links_empty_folders_and_clashing_names_are_refused(folder):
    (folder / "link").symlink_to(folder / "src")
    with pytest.raises(UserError, match="is a link"):
        check_folder(folder)
    (folder / "link").unlink()
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="is empty"):
        check_folder(folder)
    (folder / "empty").rmdir()
    with zipfile.ZipFile(folder / "src.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(UserError, match=r"a folder travels as src\.zip"):
        check_folder(folder)


def test_a_dataset_beyond_kaggles_size_is_refused(folder, monkeypatch):
    monkeypatch.setattr("src.kaggle.scan.TOTAL", 8)
    with pytest.raises(UserError, match="Kaggle takes"):
        check_folder(folder)


# --- the manifest ---


def test_the_manifest_holds_every_files_hash_and_one_of_them_all(folder):
    manifest = write_manifest(folder, cv=0.5)
    hashes = {
        "src/main.py": hashlib.sha256(b"x = 1\n").hexdigest(),
        "weights/fold0.txt": hashlib.sha256(b"0.5").hexdigest(),
    }
    assert manifest["sha256"] == hashes
    assert manifest["cv"] == 0.5
    assert read_manifest(folder, "make bundle") == manifest
    before = manifest["bundle_hash"]
    (folder / "src/main.py").write_text("x = 2\n")
    assert write_manifest(folder)["bundle_hash"] != before


@pytest.mark.parametrize("fault", ["changed", "added", "removed", "hash"])
def test_a_folder_that_is_not_what_its_manifest_says_is_refused(folder, fault):
    write_manifest(folder)
    path = folder / {"added": "src/extra.py", "hash": "manifest.json"}.get(fault, "src/main.py")
    if fault == "removed":
        path.unlink()
    elif fault == "hash":
        path.write_text(path.read_text().replace('"bundle_hash": "', '"bundle_hash": "0'))
    else:
        path.write_text("x = 3\n")
    with pytest.raises(UserError, match=rf"{path.name}.*`make bundle` again"):
        read_manifest(folder, "make bundle")


def test_a_folder_without_a_manifest_says_which_command_makes_it(tmp_path):
    with pytest.raises(UserError, match="run `make bundle` first"):
        read_manifest(tmp_path, "make bundle")
