"""Settings for Django's own test suite, plain or guarded, and a runner that notes the outcomes."""

from __future__ import annotations

import os
import unittest
from typing import Any

from django.test.runner import DiscoverRunner
from psycopg.conninfo import conninfo_to_dict

from tests.frameworks.django_suite import DSN, WAY
from tests.frameworks.outcomes import OUTCOMES, Outcome, note

_parts = conninfo_to_dict(os.environ[DSN])
_way = os.environ[WAY]

if _way == "install":
    import guarddb

    guarddb.install()


def _database(name: str) -> dict[str, Any]:
    return {
        "ENGINE": "guarddb.integrations.django" if _way == "engine" else "django.db.backends.postgresql",
        "NAME": f"{_parts['dbname']}_{name}",
        "USER": _parts["user"],
        "HOST": _parts["host"],
        "PORT": _parts.get("port", ""),
    }


DATABASES = {"default": _database("default"), "other": _database("other")}
SECRET_KEY = "of the tests"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "tests.frameworks.django_settings.NotingRunner"


class _NotingResult(unittest.TextTestResult):
    """A result that notes the outcome of each test."""

    def _note(self, test: Any, outcome: Outcome, why: str = "") -> None:
        note(os.environ[OUTCOMES], test.id(), outcome, why)

    def addSuccess(self, test: Any) -> None:
        self._note(test, "passed")
        super().addSuccess(test)

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        self._note(test, "passed")
        super().addExpectedFailure(test, err)

    def addSkip(self, test: Any, reason: str) -> None:
        self._note(test, "skipped", reason)
        super().addSkip(test, reason)

    def addFailure(self, test: Any, err: Any) -> None:
        self._note(test, "failed", str(err[1]))
        super().addFailure(test, err)

    def addError(self, test: Any, err: Any) -> None:
        self._note(test, "failed", str(err[1]))
        super().addError(test, err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self._note(test, "failed", str(err[1]))
        super().addSubTest(test, subtest, err)


class NotingRunner(DiscoverRunner):  # type: ignore[misc]
    """Django's own runner."""

    def get_resultclass(self) -> Any:
        return _NotingResult
