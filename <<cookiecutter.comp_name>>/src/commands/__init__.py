"""Commands beside the six stages, a module each: `python -m src.commands.<name>`, or `make <name>`."""
