"""Report the figures of a run: to files, to the terminal, to trackers."""
