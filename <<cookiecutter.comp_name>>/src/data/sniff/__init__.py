"""A look at Kaggle's files before the first question: what is the id, the target, the task; `make sniff`."""
