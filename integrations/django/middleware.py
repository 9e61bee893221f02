"""A middleware that gives the queries of each request the settings of whoever asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable, iscoroutinefunction
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.decorators import sync_and_async_middleware
from django.utils.module_loading import import_string
from guarddb.integrations.django.request_settings import settings_for

__all__ = ["SettingsMiddleware"]


def _settings_of() -> Callable[[Any], Any]:
    named = getattr(settings, "GUARDDB_SETTINGS", None)
    if named is None:
        raise ImproperlyConfigured(
            "guarddb's SettingsMiddleware needs GUARDDB_SETTINGS: a function, or its dotted path, that makes the settings of a "
            'request ({"app.tenant": "42"}) from it'
        )
    found = import_string(named) if isinstance(named, str) else named
    if not callable(found):
        raise ImproperlyConfigured("GUARDDB_SETTINGS must be a function of the request")
    return found  # type: ignore[no-any-return]


@sync_and_async_middleware  # type: ignore[untyped-decorator]
def SettingsMiddleware(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Put it below the middleware that tells who asks (AuthenticationMiddleware)."""
    settings_of = _settings_of()
    if iscoroutinefunction(get_response):

        async def answer(request: Any) -> Any:
            values = settings_of(request)
            if isawaitable(values):
                values = await values
            with settings_for(_checked(values)):
                response = get_response(request)
                return await response if isinstance(response, Awaitable) else response

        return answer

    def answer_in_thread(request: Any) -> Any:
        with settings_for(_checked(settings_of(request))):
            return get_response(request)

    return answer_in_thread


def _checked(values: Any) -> Mapping[str, str]:
    if not isinstance(values, Mapping):
        raise ImproperlyConfigured(
            f"GUARDDB_SETTINGS must return a mapping of setting names to values, not {type(values).__name__}"
        )
    return values
