"""What drivers and their clients are put together from."""
