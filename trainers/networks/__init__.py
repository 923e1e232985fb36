"""Networks as flax modules."""
