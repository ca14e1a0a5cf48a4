"""Who is calling, and may they: public keys, access tokens, and the one table of permissions."""
