"""The experiment record: the only rooms that know MLflow."""
