from __future__ import annotations

from typing import Any

from django.http import HttpRequest, JsonResponse
from django.urls import path

from tests.integrations.shop.models import Note


def texts(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"texts": sorted(note.text for note in Note.objects.all())})


async def texts_later(request: HttpRequest) -> Any:
    return JsonResponse({"texts": sorted([note.text async for note in Note.objects.all()])})


urlpatterns = [path("notes", texts), path("notes/async", texts_later)]
