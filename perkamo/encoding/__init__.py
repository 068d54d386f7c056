"""Values to bytes and bytes to values, as the service's JavaScript reads and writes them; and what an id may be."""
