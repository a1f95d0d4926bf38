"""Gives any process what it needs: database, migrations, web, gRPC, health."""
