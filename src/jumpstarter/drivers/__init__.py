"""Ready-made drivers, and mixins for the clients of your own."""
