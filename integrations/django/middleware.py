"""A middleware that gives the queries of each request the settings of whoever asks."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from inspect import isawaitable, iscoroutinefunction
from typing import Any

from guarddb.integrations.django.request_settings import settings_for

try:
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured
    from django.utils.decorators import sync_and_async_middleware
    from django.utils.module_loading import import_string
except ImportError as ex:
    raise ImportError("guarddb.integrations.django needs Django: pip install 'guarddb[django]'") from ex

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
            checked = _checked(values)
            with settings_for(checked):
                response = get_response(request)
                response = await response if isinstance(response, Awaitable) else response
            return _streaming(response, checked)

        return answer

    def answer_in_thread(request: Any) -> Any:
        checked = _checked(settings_of(request))
        with settings_for(checked):
            response = get_response(request)
        return _streaming(response, checked)

    return answer_in_thread


def _streaming(response: Any, values: Mapping[str, str]) -> Any:
    """A response that is made while it is sent runs its queries with the request's settings too."""
    if getattr(response, "streaming", False):
        within = _within_later if response.is_async else _within
        response.streaming_content = within(values, response.streaming_content)
    return response


def _within(values: Mapping[str, str], content: Iterable[bytes]) -> Iterator[bytes]:
    parts = iter(content)
    while True:
        with settings_for(values):
            part = next(parts, None)
        if part is None:
            return
        yield part


async def _within_later(values: Mapping[str, str], content: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    parts = aiter(content)
    while True:
        with settings_for(values):
            part = await anext(parts, None)
        if part is None:
            return
        yield part


def _checked(values: Any) -> Mapping[str, str]:
    if not isinstance(values, Mapping):
        raise ImproperlyConfigured(
            f"GUARDDB_SETTINGS must return a mapping of setting names to values, not {type(values).__name__}"
        )
    return values
