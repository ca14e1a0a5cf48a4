"""`backup` and `restore` of a local system: PostgreSQL, the elements' files, and on request the keys."""
