"""Static checks of the competitor's own preprocessing function: does it exist, has its code changed?"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

from src.config import Data, UserError

OWN = Path(__file__).parent / "data" / "own.py"


def preprocessing(data: Data) -> dict[str, str] | None:
    """The function name in `data.preprocess` and a digest of its file's code; None if the key is not set.

    Comments and layout do not change the digest. Raises `UserError` if the file is not valid Python, or has
    no such function (the message lists those it has).
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
