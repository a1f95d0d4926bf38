"""The embedded log: partitioned tables of PostgreSQL and the groups that read them."""
