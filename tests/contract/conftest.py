"""Databases for the contract tests."""

from tests.mongo_server import mongo_access, mongo_server, own_mongo
from tests.mysql_server import fresh_database, mysql_server, own_mysql

__all__ = [
    "fresh_database",
    "mongo_access",
    "mongo_server",
    "mysql_server",
    "own_mongo",
    "own_mysql",
]
