"""The four everyday functions: `serve`, `connect` and their async forms."""
