"""What ``perkamo check`` asks a service, and what it makes of the answers."""
