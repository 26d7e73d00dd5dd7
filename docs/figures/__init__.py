"""Every picture of the documentation, made from real runs: `make figures`, or `python -m docs.figures NAME ...`."""
