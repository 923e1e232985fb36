"""How well a policy does on worlds it has never seen."""
