"""A curriculum: stages that a swarm goes through one after the other, as it gets better."""
