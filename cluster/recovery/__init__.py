"""What can go wrong with a run, what is done about it, and the receipt that is kept of it."""
