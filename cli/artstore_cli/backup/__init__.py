"""`backup` and `restore` of a whole system: PostgreSQL, the elements' files, and on request the keys."""
