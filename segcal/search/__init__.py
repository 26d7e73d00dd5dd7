"""From a space of recipes to the one that trains best, as a mean over seeds."""
