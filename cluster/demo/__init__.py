"""`python -m cluster.demo`: the whole loop on a real model, driven as a user drives it.

It runs the product's own commands and calls the endpoint over HTTP; nothing here reaches around them.
"""
