"""Training ECGs like a given one: an index of a store, searched without ever finding the query or its patient."""
