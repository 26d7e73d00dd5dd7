"""The documentation, and what keeps it true: its commands are run (walk), its pictures are made (figures)."""
