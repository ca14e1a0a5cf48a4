"""Every setting of every module by its environment name. A test keeps this equal to the settings classes.

One list for all, because the same name means the same everywhere and an environment may be shared by several modules.
"""

from __future__ import annotations

SETTING_NAMES = frozenset(
    {
        "ADMIN_URL",
        "BODY_IDLE_TIMEOUT_S",
        "BODY_MIN_RATE_BYTES_PER_S",
        "BOOTSTRAP_ACCOUNTS_FILE",
        "CACHE_ABSENT_TTL_S",
        "CACHE_CATALOG_TTL_S",
        "CACHE_MEMORY_ENTRIES",
        "CACHE_MEMORY_TTL_S",
        "CACHE_REDIS_TTL_S",
        "CORS_ALLOWED_ORIGINS",
        "DATABASE_COMMAND_TIMEOUT_S",
        "DATABASE_CONNECT_TIMEOUT_S",
        "DATABASE_MAX_OVERFLOW",
        "DATABASE_POOL_RECYCLE_S",
        "DATABASE_POOL_SIZE",
        "DATABASE_URL",
        "DISCOVERY_FILE",
        "ELEMENT_AWAY_AFTER_S",
        "ELEMENT_CALL_TIMEOUT_S",
        "ELEMENT_IDLE_TIMEOUT_S",
        "HOST",
        "JWKS_FILE",
        "KEY_ENCRYPTION_KEY",
        "LOG_FORMAT",
        "LOG_LEVEL",
        "MAX_FILE_SIZE_BYTES",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_TRACES_SAMPLER_ARG",
        "PEER_CONNECT_TIMEOUT_S",
        "PEER_TIMEOUT_S",
        "PORT",
        "REDIS_CONNECT_TIMEOUT_S",
        "REDIS_MAX_CONNECTIONS",
        "REDIS_TIMEOUT_S",
        "REDIS_URL",
        "SAGA_KEEP_FINISHED_S",
        "SAGA_LEASE_S",
        "SECRET_GRACE_S",
        "SECRET_HASH_KEY",
        "SERVICE_CLIENT_ID",
        "SERVICE_CLIENT_SECRET",
        "SHUTDOWN_TIMEOUT_S",
        "SIGNING_KEY_BITS",
        "SIGNING_KEY_CHECK_EVERY_S",
        "SIGNING_KEY_GRACE_S",
        "SIGNING_KEY_PUBLISH_LEAD_S",
        "SIGNING_KEY_ROTATE_EVERY_S",
        "STORAGE_ELEMENTS",
    }
)

OWN_PREFIXES = ("STORAGE_", "S3_", "DATABASE_", "REDIS_", "SERVICE_CLIENT_")
"""Names that begin so are ours; an unknown one among them is a mistake."""
