"""What the operator sees: metrics, logs, the access log, the admin server."""
