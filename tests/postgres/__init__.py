"""A PostgreSQL server for tests: the machine's, else the one that a package ships."""
