"""What a sweep has on disk: the truth of what is trained. Nothing here knows MLflow, Ray or torch."""
