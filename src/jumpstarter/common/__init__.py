"""Import paths of the published driver API; no code of its own."""
