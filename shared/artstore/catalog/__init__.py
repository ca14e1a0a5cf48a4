"""The catalog, PostgreSQL's copy of the attributes: elements, admin and query write it; ingester and query
read it."""
