"""Trained policies: what they know of themselves, and how they act."""
