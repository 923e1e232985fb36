"""The simulator behind other libraries' interfaces."""
