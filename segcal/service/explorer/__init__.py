"""The pages of the explorer: experiments, reports, and each case."""
