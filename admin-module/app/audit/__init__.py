"""What was changed, by whom, in a chain that cannot be rewritten unseen."""
