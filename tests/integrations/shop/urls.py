from __future__ import annotations

from typing import Any

from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path

from tests.integrations.shop.models import Note


def texts(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"texts": sorted(note.text for note in Note.objects.all())})


async def texts_later(request: HttpRequest) -> Any:
    return JsonResponse({"texts": sorted([note.text async for note in Note.objects.all()])})


def texts_streamed(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(note.text for note in Note.objects.order_by("text").all())


urlpatterns = [
    path("notes", texts),
    path("notes/async", texts_later),
    path("notes/stream", texts_streamed),
]
