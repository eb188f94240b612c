"""Load a config: a YAML file, its base files and command-line overrides become a validated `Config`.

`base:` names the file that a config builds on; `key=value` on the command line overrides both. OmegaConf
reads and merges, pydantic validates. Every mistake is reported as one sentence.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from types import UnionType
from typing import Any, get_args

from pydantic import ValidationError

from src.config import Config, NoEffect, Section, UserError
from src.config.effects import ignored, value_of, without_effect

FREE = ("train.class_weights.",)  # keys below these are named by the competition


def load_config(path: str | Path, overrides: list[str] = (), effects: bool = True) -> Config:
    """Load a YAML config with its bases, apply `key=value` overrides and validate everything.

    The project's root is the folder above `configs/`. Raises `UserError` with the file and key, and the
    nearest known key for a typo. `effects=False` also accepts keys that have no effect: before the raw files
    are inspected, the task is not known.
    """
    from omegaconf import OmegaConf

    path = Path(path)
    layers = layers_of(path, overrides)
    known = known_keys()
    for source, layer in layers:
        for key in _flat(layer):
            if key not in known and not key.startswith(FREE):
                raise UserError(_unknown_key(source, key, known))
    merged = OmegaConf.to_container(
        OmegaConf.merge(*(OmegaConf.create(_literal(layer)) for _, layer in layers))
    )
    merged = _plain(merged)
    merged.setdefault("name", path.stem)
    folder = path.resolve().parent
    root = folder.parent if folder.name == "configs" else folder
    try:
        config = Config.model_validate({**merged, "root": root})
    except ValidationError as error:
        raise UserError(_explain(error, layers)) from None
    if effects:
        _refuse_without_effect(config, layers)
    return config


def _refuse_without_effect(config: Config, layers: list[tuple[str, dict]]) -> None:
    """Raise `NoEffect` for the first key that is set but has no effect.

    A key is accepted if the setting that disables it comes from a later source: a later file or the command
    line.
    """
    needs = without_effect(config)
    for key, why in ignored(config).items():
        own, of = (
            max((i for i, (_, layer) in enumerate(layers) for k in keys if _holds(layer, k)), default=-1)
            for keys in ((key,), needs[key].of)
        )
        if 0 <= own >= of:
            raise NoEffect(
                f"{layers[own][0]}: `{key}` is {_as_yaml(value_of(config, key))} and has no effect: {why}; "
                f"take it out"
            )


def layers_of(path: str | Path, overrides: list[str] = ()) -> list[tuple[str, dict]]:
    """The values that each source sets, unvalidated: the deepest base file first, the command line last."""
    return [*_read_with_bases(Path(path)), ("the command line", _read_overrides(overrides))]


def known_keys() -> dict[str, Any]:
    """Every dotted key of the config with its default; a section's own key is included with None."""
    keys: dict[str, Any] = {}

    def walk(section: type[Section], prefix: str) -> None:
        for name, field in section.model_fields.items():
            if field.exclude:
                continue
            keys[prefix + name] = field.default
            inner = section_of(field.annotation)
            if inner is not None:
                keys[prefix + name] = None
                walk(inner, f"{prefix}{name}.")

    walk(Config, "")
    return keys


def section_of(annotation: Any) -> type[Section] | None:
    """The `Section` class of an annotation `Section` or `Section | None`; None for any other annotation."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


# --- reading ---

_DOLLAR = "\ue000"  # replaces `$` while OmegaConf merges: "${x}" in a title is text, not interpolation


def _read_with_bases(path: Path) -> list[tuple[str, dict]]:
    """The file and its base files, the deepest base first, each with the name used in messages."""
    layers: list[tuple[str, dict]] = []
    seen: list[Path] = []
    current: Path | None = path
    while current is not None:
        if current.resolve() in seen:
            raise UserError(
                f"{current}: its `base:` leads back to itself; name a file that does not build on this one"
            )
        seen.append(current.resolve())
        values = _without_empty_sections(_read_yaml(current), Config)
        base = values.pop("base", None)
        if layers:  # an inherited `name` would make two experiments write to the same run folder
            values.pop("name", None)
        layers.insert(0, (str(current), values))
        current = current.parent / (base if str(base).endswith(".yaml") else f"{base}.yaml") if base else None
    return layers


def _read_yaml(path: Path) -> dict:
    """Read one YAML file as a dictionary with OmegaConf, which reads 3e-4 as a number (PyYAML does not)."""
    import io

    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        there = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise UserError(
            f"{path}: there is no such config{': there are ' + ', '.join(there) if there else ''}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    try:
        loaded = OmegaConf.load(io.StringIO(text.replace("$", _DOLLAR)))
    except (yaml.YAMLError, OmegaConfBaseException, OSError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise UserError(
            f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or error})"
        ) from None
    values = OmegaConf.to_container(loaded)
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: a config is a list of `key: value` lines, this is a {type(values).__name__}"
        )
    dotted = next((key for key in values if "." in str(key)), None)
    if dotted is not None:
        outer, _, inner = str(dotted).partition(".")
        raise UserError(
            f"{path}: `{dotted}` is the command line's way; "
            f"in a file write `{inner}:` on a line below `{outer}:`"
        )
    return _plain(values)


def _without_empty_sections(values: dict, section: type[Section]) -> dict:
    """Remove sections that are null, as YAML reads one whose keys are all commented out."""
    kept = {}
    for key, value in values.items():
        field = section.model_fields.get(key)
        inner = type(field.default) if field is not None and isinstance(field.default, Section) else None
        if inner is None or value is not None:
            kept[key] = _without_empty_sections(value, inner) if inner and isinstance(value, dict) else value
    return kept


def _read_overrides(overrides: list[str]) -> dict:
    from omegaconf import OmegaConf

    for item in overrides:
        if "=" not in item or not item.split("=", 1)[0]:
            raise UserError(f"the command line: {item!r} is not key=value, such as train.lr=3e-4")
    try:
        values = OmegaConf.to_container(
            OmegaConf.from_dotlist([item.replace("$", _DOLLAR) for item in overrides])
        )
    except Exception as error:  # OmegaConf passes on any error of its YAML parser
        raise UserError(
            f"the command line: cannot read {' '.join(overrides)!r} ({str(error).splitlines()[0]})"
        ) from None
    return _plain(values)


def _map_text(value: Any, change) -> Any:
    if isinstance(value, dict):
        return {_map_text(k, change): _map_text(v, change) for k, v in value.items()}
    if isinstance(value, list):
        return [_map_text(v, change) for v in value]
    return change(value) if isinstance(value, str) else value


def _literal(values: dict) -> dict:
    return _map_text(values, lambda text: text.replace("$", _DOLLAR))


def _plain(values: dict) -> dict:
    return _map_text(values, lambda text: text.replace(_DOLLAR, "$"))


def _flat(values: dict, prefix: str = "") -> list[str]:
    """Dotted keys of the leaves of a nested dictionary; an empty section counts as a leaf."""
    keys: list[str] = []
    for key, value in values.items():
        inner = isinstance(value, dict) and value
        keys += _flat(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}"]
    return keys


# --- messages ---


def _unknown_key(source: str, key: str, known: dict) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if not near:  # a correct key name in the wrong section
        leaf = key.rsplit(".", 1)[-1]
        near = [k for k in known if k.rsplit(".", 1)[-1] == leaf][:1]
    hint = f"did you mean `{near[0]}`?" if near else "`make config` prints every known key"
    return f"{source}: unknown key `{key}`; {hint}"


def _explain(error: ValidationError, layers: list[tuple[str, dict]]) -> str:
    """The first pydantic error as one sentence with its file, its key and an example of a good value."""
    first = error.errors()[0]
    file, command_line = layers[-2][0], layers[-1][1]
    if not first["loc"]:
        return f"{file}{' with the command line' if command_line else ''}: {first['ctx']['error']}"
    parts = [str(part) for part in first["loc"]]
    key = ".".join(part for part in parts if not part.isdigit())
    known = known_keys()
    while key and key not in known:  # drop the parts that pydantic adds for unions
        key = key.rpartition(".")[0]
    source = next((name for name, layer in reversed(layers) if _holds(layer, key)), file)
    default = known.get(key)
    good = "" if default in (None, "") else f"; a good value looks like {_as_yaml(default)}"
    if first["type"] == "string_pattern_mismatch":
        why = "it may hold letters, digits, `.`, `_` and `-`, and starts with a letter or digit"
    elif first["type"] == "model_type":
        inside = ", ".join(k for k in known if k.startswith(f"{key}."))
        why = f"it is a section, its keys stand below it: {inside}"
    elif first["type"] == "value_error":
        why = str(first["ctx"]["error"])
    else:
        why = first["msg"][0].lower() + first["msg"][1:]
    return f"{source}: `{key}` is {first['input']!r}: {why}{good}"


def _holds(layer: dict, key: str) -> bool:
    here: Any = layer
    for part in key.split("."):
        if not isinstance(here, dict) or part not in here:
            return False
        here = here[part]
    return True


def _as_yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_as_yaml(v) for v in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
