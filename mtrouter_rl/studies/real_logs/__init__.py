"""Single-turn routers on a log that nobody can run again, estimated out of sample."""
