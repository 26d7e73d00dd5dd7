"""From files on disk to checked, prepared, memory-mapped cases."""
