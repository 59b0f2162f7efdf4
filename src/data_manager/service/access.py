"""How the servers are reached that the settings name. The drivers are imported when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from data_manager.settings import Settings

if TYPE_CHECKING:
    from data_manager.adapters.bus.connection import NatsAccess
    from data_manager.adapters.mongo.access import MongoAccess


def mongo_access(settings: Settings) -> MongoAccess:
    """Where the MongoDB is that MONGODB_URL, or MONGODB_HOST and its like, name."""
    from data_manager.adapters.mongo.access import MongoAccess

    return MongoAccess(
        database=settings.mongodb_db,
        url=settings.mongodb_url or "",
        host=(settings.mongodb_host or "localhost").strip("[]"),
        port=settings.mongodb_port,
        user=settings.mongodb_user or "",
        password=settings.mongodb_password or "",
        expire_by_index=settings.mongodb_expire_by_index,
    )


def nats_access(settings: Settings, urls: Sequence[str]) -> NatsAccess:
    """How to reach these servers with the settings' logins and patience."""
    from data_manager.adapters.bus.connection import NatsAccess

    attempts = settings.nats_max_reconnect_attempts
    return NatsAccess(
        urls=tuple(urls),
        user=settings.nats_user,
        password=settings.nats_password,
        token=settings.nats_token,
        creds_file=settings.nats_creds_file,
        tls_ca_file=settings.nats_tls_ca_file,
        tls_cert_file=settings.nats_tls_cert_file,
        tls_key_file=settings.nats_tls_key_file,
        connect_timeout_s=settings.nats_connect_timeout,
        reconnect_wait_s=settings.nats_reconnect_time_wait,
        reconnect_attempts_max=None if attempts < 0 else attempts,
    )
