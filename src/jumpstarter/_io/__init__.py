"""Sockets, transports, the connection that many calls share, byte streams and the portal."""
