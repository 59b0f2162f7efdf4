"""Databases for the contract tests."""

from tests.mongo_server import mongo_access, mongo_server, own_mongo
from tests.mysql_server import empty_database, fresh_database, migrated_file, mysql_server, own_mysql

__all__ = [
    "empty_database",
    "fresh_database",
    "migrated_file",
    "mongo_access",
    "mongo_server",
    "mysql_server",
    "own_mongo",
    "own_mysql",
]
