"""Draws a finished report; computes nothing."""
