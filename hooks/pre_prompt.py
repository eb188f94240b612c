"""Pre-prompt hook: reject an old cookiecutter with one sentence. This hook alone is not rendered."""

import sys
from importlib.metadata import version

# 2.6 is the first release that finds the template folder with the delimiters of cookiecutter.json.
OLDEST = (2, 6)

installed = version("cookiecutter")
if tuple(int(part) for part in installed.split(".")[:2]) < OLDEST:
    sys.exit(f"This template needs cookiecutter 2.6 or newer, not {installed}: pip install -U cookiecutter")
