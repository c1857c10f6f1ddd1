"""The exporter's side: it accepts clients, runs drivers' code and answers calls."""
