"""The analysis as a service, and the explorer of its cases."""
