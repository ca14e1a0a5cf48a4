"""Authentication and authorisation: public keys, access tokens, and the permission table."""
