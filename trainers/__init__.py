"""Trainers: one algorithm or command each."""
