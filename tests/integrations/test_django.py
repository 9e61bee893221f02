"""Django over guarded connections: migrations, the ORM, iterators, the pool, requests of several tenants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import guarddb
from tests.fix_server import temporary_database
from tests.integrations import django_project


@pytest.fixture(scope="module")
def project(server_dsn: str) -> Iterator[Any]:
    """The project's models, on a database that Django's own migrations have made through a guarded connection."""
    with temporary_database(server_dsn, "django") as dsn:
        django_project.set_up(dsn)
        from django.core.management import call_command
        from django.db import connections

        call_command("migrate", database="open", verbosity=0, run_syncdb=True)
        from tests.integrations.shop import models

        person = models.Person.objects.using("open").create(name="Ada", email="ada@example.org")
        for i in range(1, 5):
            models.Note.objects.using("open").create(tenant=i % 2 + 1, text=f"note {i}", person=person)
        yield models
        for connection in connections.all():
            connection.close()
            connection.close_pool()


def test_masks_and_filters_hold_below_the_orm(project: Any) -> None:
    from django.db.models import Count

    person = project.Person.objects.get()
    assert (person.name, person.email) == ("Ada", "[redacted]")
    assert person.joined.tzinfo is not None
    assert sorted(project.Note.objects.values_list("text", flat=True)) == ["note 2", "note 4"]
    assert project.Note.objects.select_related("person").first().person.name == "Ada"
    assert project.Note.objects.filter(person__name="Ada").count() == 2
    assert project.Person.objects.annotate(n=Count("note")).get().n == 2


def test_a_refusal_is_djangos_error_with_the_decision(project: Any) -> None:
    from django.db import ProgrammingError

    with pytest.raises(ProgrammingError) as refused:
        list(project.Person.objects.filter(email__startswith="ada"))
    cause = refused.value.__cause__
    assert isinstance(cause, guarddb.PolicyViolation)
    assert cause.decision is not None
    assert cause.rule == "masked_column_predicate"
    assert project.Person.objects.count() == 1


def test_writes(project: Any) -> None:
    from django.db import ProgrammingError, transaction

    person = project.Person.objects.get()
    with transaction.atomic():
        made = project.Note.objects.bulk_create(
            [project.Note(tenant=1, text=f"new {i}", person=person) for i in range(20)]
        )
        assert all(note.pk for note in made)
        project.Note.objects.filter(text="new 0").update(text="changed")
        _, created = project.Note.objects.get_or_create(text="changed", defaults={"tenant": 1})
        assert not created
        transaction.set_rollback(True)
    with pytest.raises(ProgrammingError) as refused, transaction.atomic():
        project.Note.objects.create(tenant=2, text="another's", person=person)
    assert getattr(refused.value.__cause__, "rule", "") == "row_filter_violation"
    assert project.Note.objects.count() == 2


def test_iterator(project: Any) -> None:
    assert [p.email for p in project.Person.objects.iterator(chunk_size=1)] == ["[redacted]"]


def test_the_pool_hands_out_guarded_connections(project: Any) -> None:
    from django.db import connections

    wrapper = connections["pooled"]
    for _ in range(2):
        assert project.Person.objects.using("pooled").get().email == "[redacted]"
        assert isinstance(wrapper.connection, guarddb.Connection)
        wrapper.close()


def test_a_reader_needs_no_set(project: Any) -> None:
    """Django's time zone is there without a statement, so a policy that admits no SET serves it."""
    from django.db import connections

    with connections["reader"].cursor() as cursor:
        cursor.execute("SHOW TimeZone")
        assert cursor.fetchone() == ("UTC",)
    assert project.Person.objects.using("reader").get().name == "Ada"
    assert "shop_note" in connections["reader"].introspection.table_names()


def test_requests_of_two_tenants(project: Any) -> None:
    from django.test import Client

    client = Client()
    for _ in range(2):
        for tenant, expected in (("2", ["note 1", "note 3"]), ("1", ["note 2", "note 4"])):
            answer = client.get("/notes", headers={"X-Tenant": tenant})
            assert answer.json() == {"texts": expected}
    assert project.Note.objects.count() == 2


async def test_async_views(project: Any) -> None:
    from django.test import AsyncClient

    client = AsyncClient()
    for tenant, expected in (("2", ["note 1", "note 3"]), ("1", ["note 2", "note 4"])):
        answer = await client.get("/notes/async", headers={"X-Tenant": tenant})
        assert answer.json() == {"texts": expected}


def test_settings_for_tasks(project: Any) -> None:
    from guarddb.integrations.django.request_settings import settings_for

    with settings_for({"app.tenant": "2"}):
        assert sorted(project.Note.objects.values_list("text", flat=True)) == ["note 1", "note 3"]
    assert sorted(project.Note.objects.values_list("text", flat=True)) == ["note 2", "note 4"]


def test_a_cursor_follows_whoever_uses_it(project: Any) -> None:
    """Made for one tenant, used for another: by execute(), by psycopg's own methods, on the connection, in the midst of rows."""
    from django.db import ProgrammingError, connection
    from guarddb.integrations.django.request_settings import settings_for

    sql = "SELECT text FROM shop_note ORDER BY 1"
    one, two = [("note 2",), ("note 4",)], [("note 1",), ("note 3",)]
    with settings_for({"app.tenant": "2"}):
        cursor = connection.cursor()
        cursor.execute(sql)
    assert cursor.fetchall() == two
    cursor.execute(sql)
    assert cursor.fetchall() == one
    with settings_for({"app.tenant": "2"}):
        cursor.execute(sql)
        assert cursor.fetchall() == two
        assert list(cursor.stream(sql)) == two
    assert list(cursor.stream(sql)) == one
    assert connection.connection.execute(sql).fetchall() == one
    with settings_for({"app.tenant": "2"}):
        rows = project.Note.objects.order_by("text").iterator(chunk_size=1)
        assert next(rows).text == "note 1"
    with pytest.raises(ProgrammingError, match="was opened"):
        list(rows)


def test_a_streaming_response_is_the_requests(project: Any) -> None:
    from django.test import Client

    client = Client()
    for tenant, expected in (("2", b"note 1note 3"), ("1", b"note 2note 4")):
        answer = client.get("/notes/stream", headers={"X-Tenant": tenant})
        assert project.Note.objects.count() == 2  # somebody else's query in between
        assert b"".join(answer.streaming_content) == expected


def test_the_middleware_says_what_it_needs(project: Any) -> None:
    from django.core.exceptions import ImproperlyConfigured
    from django.test import override_settings
    from guarddb.integrations.django.middleware import SettingsMiddleware

    with (
        override_settings(GUARDDB_SETTINGS=None),
        pytest.raises(ImproperlyConfigured, match="GUARDDB_SETTINGS"),
    ):
        SettingsMiddleware(lambda request: None)


@pytest.mark.parametrize(
    ("database", "there", "closed"),
    [("open", "ShopAll", ""), ("default", "ShopPerson", "ShopAll"), ("listed", "ShopAll", "ShopPerson")],
)
def test_inspectdb_meets_no_refusal(project: Any, database: str, there: str, closed: str) -> None:
    import io

    from django.core.management import call_command
    from django.db import connections

    with connections["open"].cursor() as cursor:
        cursor.execute("CREATE MATERIALIZED VIEW shop_all AS SELECT id, text FROM shop_note")
    try:
        found = io.StringIO()
        call_command("inspectdb", database=database, include_views=True, stdout=found)
        connections[database].rollback()
    finally:
        with connections["open"].cursor() as cursor:
            cursor.execute("DROP MATERIALIZED VIEW shop_all")
    assert "Unable to inspect" not in found.getvalue()
    assert "class ShopNote(" in found.getvalue()
    assert f"class {there}(" in found.getvalue()
    assert not closed or f"class {closed}(" not in found.getvalue()
    # What there is, no policy changes: migrations ask.
    assert {"shop_person", "django_migrations"} <= set(connections[database].introspection.table_names())
