"""Carrying a begun stream from one replica to another of the same version, token by token."""
