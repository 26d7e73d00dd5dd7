"""From registered members to statistics and a report."""
