"""The tables of this application, by version."""
