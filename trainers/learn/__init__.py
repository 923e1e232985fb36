"""Functions over arrays from which learners are built."""
