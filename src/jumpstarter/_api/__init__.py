"""The four everyday functions, which join both sides: `serve`, `connect` and their async forms."""
