"""Accounts, their secrets, access tokens and the keys that sign them."""
