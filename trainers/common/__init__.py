"""Old names, for one more version."""
