"""Evaluate policies on worlds that they have never seen: play episodes, compute figures, show and film."""
