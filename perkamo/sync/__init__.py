"""How async code serves synchronous callers: the portal, and the generator of the sync twins."""
