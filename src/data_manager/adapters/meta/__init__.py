"""Metadata in SQL: sql.py is the store, database.py the door to the driver, migrate.py keeps the schema up to date."""
