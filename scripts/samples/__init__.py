"""Flows and a history to look at: for the screenshots and for the tests in a browser."""
