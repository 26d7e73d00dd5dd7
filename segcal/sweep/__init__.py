"""From a sweep file to trained, registered members."""
