"""Commands beside the six stages, a module each: `python -m src.commands.<name>`, or `make <name>`. They
look, measure and advise, and change nothing that a stage reads."""
