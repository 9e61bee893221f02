"""A Django application in one file, its database behind a policy, and each request with the tenant it is for.

pip install 'guarddb[django]'
SALES_HASH_KEY=… DATABASE_URL=postgresql://agent@localhost/shop python examples/django_app.py
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.http import HttpRequest, JsonResponse
from django.urls import path
from psycopg.conninfo import conninfo_to_dict

POLICY = Path(__file__).parent / "profiles" / "sales.yaml"


def tenant_of(request: HttpRequest) -> dict[str, str]:
    """What row filters read, for whoever asks. (A real one looks at `request.user`, and never at what a client may claim.)"""
    return {"app.tenant": request.headers.get("X-Tenant", "0")}


def orders(request: HttpRequest) -> JsonResponse:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM orders ORDER BY id LIMIT 3")
        return JsonResponse({"orders": [row[0] for row in cursor.fetchall()]})


urlpatterns = [path("orders", orders)]


def configure(url: str) -> None:
    parts: dict[str, Any] = conninfo_to_dict(url)
    settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "guarddb.integrations.django",
                "NAME": parts["dbname"],
                "USER": parts["user"],
                "HOST": parts.get("host", ""),
                "PORT": parts.get("port", ""),
                "OPTIONS": {"policy": POLICY, "agent": "web", "settings": {"app.tenant": "0"}},
            }
        },
        MIDDLEWARE=["guarddb.integrations.django.middleware.SettingsMiddleware"],
        GUARDDB_SETTINGS=tenant_of,
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        USE_TZ=True,
    )
    django.setup()


def main() -> None:
    configure(os.environ["DATABASE_URL"])
    from django.db import ProgrammingError, connection
    from django.test import Client

    for tenant in ("0", "1"):
        print("tenant", tenant, Client().get("/orders", headers={"X-Tenant": tenant}).json())
    try:
        connection.cursor().execute("DELETE FROM orders WHERE id = 1")
    except ProgrammingError as ex:
        print("refused:", getattr(ex.__cause__, "rule", None))
    connection.close()


if __name__ == "__main__":
    main()
