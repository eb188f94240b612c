"""Commands of the Makefile beside the six stages, each as thin as they."""
