"""What makes this library at home in a framework. Each needs the extra of its name."""
