"""Training of one model on one fold: loop, optimiser, schedules, weight averaging, parallel workers."""
