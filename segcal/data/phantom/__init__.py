"""Generated images with the traps of the real ones: they show how methods behave, not how patients look."""
