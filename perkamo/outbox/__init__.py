"""Events that must survive: kept in a store until the service has answered for them."""
