"""`doctor`: checks a running system against what production needs."""
