"""How much a caller may ask for: GCRA shared through Redis, tightened under load, and addresses that are shut
out."""
