"""What makes the reference pages out of the program, when Sphinx reads them."""
