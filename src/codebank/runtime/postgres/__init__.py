"""PostgreSQL as any room uses it: pools, connections, migrations, databases and their roles."""
