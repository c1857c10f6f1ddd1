"""Configurations in YAML, as the published package has them, and their environment variables."""
