"""Small helpers that know nothing of the protocol, of drivers or of clients."""
