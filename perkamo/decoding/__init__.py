"""Answers of the service -> the values of ``models``: JSON by cattrs, items of a batch one by one."""
