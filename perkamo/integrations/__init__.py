"""Frameworks: one package for each, which hands on what the modules here do without any framework."""
