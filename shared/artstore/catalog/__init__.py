"""The catalog: PostgreSQL's copy of the attributes. Elements and admin write it, ingester and query read it."""
