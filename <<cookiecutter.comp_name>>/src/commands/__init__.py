"""What is asked for by `make <command>` beside the six stages; each can be called alone."""
