"""A Django project in one file: settings and models over a guarded database. Configured once for a process."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict

POLICY: dict[str, Any] = {
    "name": "django",
    "access_mode": "read_write",
    "masking_rules": [{"table": "shop_person", "column": "email", "kind": "redact"}],
    "row_filters": [
        {"table": "shop_note", "predicate": "tenant = current_setting('app.tenant')::int"},
    ],
    "guarddb": {"settings": {"app.tenant": "1"}, "on_unknown": "warn"},
}

#: Django's own migrations drop a column and fill others.
MIGRATIONS = {
    "name": "migrations",
    "access_mode": "read_write",
    "guarddb": {"floor_exceptions": ["destructive_ddl", "whereless_write"]},
}


def tenant_of(request: Any) -> dict[str, str]:
    return {"app.tenant": request.headers.get("X-Tenant", "1")}


def database(dsn: str, **options: Any) -> dict[str, Any]:
    parts = conninfo_to_dict(dsn)
    return {
        "ENGINE": "guarddb.integrations.django",
        "NAME": parts["dbname"],
        "USER": parts["user"],
        "HOST": parts["host"],
        "OPTIONS": options,
    }


def set_up(dsn: str) -> None:
    """Configure Django for this process, with a guarded database, an open one, and one with a pool."""
    if settings.configured:
        return
    settings.configure(
        DATABASES={
            "default": database(dsn, policy=POLICY, agent="web"),
            "open": database(dsn, policy=MIGRATIONS),
            "pooled": database(dsn, policy=POLICY, pool=True),
            "reader": database(dsn, policy={"name": "reader"}),
            "listed": database(dsn, policy={"name": "listed", "table_allowlist": ["shop_note", "shop_all"]}),
        },
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "tests.integrations.shop"],
        MIDDLEWARE=["guarddb.integrations.django.middleware.SettingsMiddleware"],
        GUARDDB_SETTINGS=tenant_of,
        ROOT_URLCONF="tests.integrations.shop.urls",
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="of the tests",
        USE_TZ=True,
        TIME_ZONE="Europe/Berlin",
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()
