"""Commands beside the six stages, a module each: `python -m src.commands.<name>`, or `make <name>`. They
look, measure, advise and talk to Kaggle, and change nothing that a stage reads."""
