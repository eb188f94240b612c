"""The competitor's own function, looked at without running it: is it there, and has it changed?"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

from src.config import Data, UserError

OWN = Path(__file__).parent / "data" / "own.py"


def preprocessing(data: Data) -> dict[str, str] | None:
    """The function that `data.preprocess` names, and a digest of the code of its file, the same for other
    comments and another layout; None where it names none.

    Raises `UserError` where the file has no such function, with those it has, or is no Python.
    """
    if data.preprocess is None:
        return None
    try:
        tree = ast.parse(OWN.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise UserError(f"src/data/own.py, line {error.lineno}: {error.msg}") from None
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]
    if data.preprocess not in names:
        raise UserError(
            f"data.preprocess: src/data/own.py has no function {data.preprocess!r}; "
            f"it has {', '.join(names) or 'none'}"
        )
    code = hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]
    return {"function": data.preprocess, "code": code}
