"""The commands of `jumpstarter` that need the extra `cli`, one module each."""
