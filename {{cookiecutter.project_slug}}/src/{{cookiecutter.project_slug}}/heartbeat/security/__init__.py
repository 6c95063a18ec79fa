"""Authorisation of callers: tokens, addresses, and Pyramid's security policy."""
