"""Training of one model on one fold: the loop, optimiser, schedules, weight averaging and parallel
workers."""
