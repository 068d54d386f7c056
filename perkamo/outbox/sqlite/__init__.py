"""A store on a local disk."""
