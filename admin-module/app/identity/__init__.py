"""Accounts, their secrets, the tokens they get and the keys that sign them."""
