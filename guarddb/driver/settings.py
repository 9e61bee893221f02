"""The PostgreSQL settings that guarddb holds on a session: read only, the timeout, what row filters read.

They are set outside any transaction of the agent's, so that its ROLLBACK does not undo them, and set again when something may
have taken them down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guarddb.driver.asking import ask_gen, ask_within_gen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import BaseConnection
    from psycopg.abc import PQGen

    from guarddb.policy.profile import PolicyProfile

#: Settings that the server reports by itself whenever they change (GUC_REPORT; the second since version 14).
_REPORTED = frozenset({"standard_conforming_strings", "default_transaction_read_only"})


def held_by(profile: PolicyProfile, settings: Mapping[str, str]) -> dict[str, str | None]:
    """The settings that a profile and the caller's own `settings` ask for; None is the session's own value."""
    held: dict[str, str | None] = {
        # The engine reads strings as PostgreSQL does with this on (the default); a role or database may say
        # otherwise.
        "standard_conforming_strings": "on",
    }
    if profile.access_mode == "read_only":
        held["default_transaction_read_only"] = "on"
    if profile.statement_timeout_ms:
        held["statement_timeout"] = str(profile.statement_timeout_ms)
    # Only names with a dot are settings of the application; PostgreSQL's own are not the caller's to give.
    held.update({name: value for name, value in settings.items() if "." in name})
    return held


def fell(held: Mapping[str, str | None], conn: BaseConnection[Any]) -> bool:
    """Whether something took them down, as far as that shows without asking."""
    # DISCARD ALL and RESET ALL take all of them down, and the server reports this one by itself.
    return (
        held.get("default_transaction_read_only") == "on"
        and conn.pgconn.parameter_status(b"default_transaction_read_only") == b"off"
    )


def hold_gen(
    held: Mapping[str, str | None], conn: BaseConnection[Any], *, within: bool = False
) -> PQGen[None]:
    """Set those that are not known to be set; `within` the implicit transaction of a pipeline."""
    calls = [
        f"pg_catalog.set_config({_literal(name)}, {'NULL' if value is None else _literal(value)}, false)"
        for name, value in held.items()
        if not (name in _REPORTED and conn.pgconn.parameter_status(name.encode()) == (value or "").encode())
    ]
    if calls:
        ask = ask_within_gen if within else ask_gen
        yield from ask(conn, f"SELECT {', '.join(calls)}".encode(conn.pgconn._encoding))


def _literal(value: str) -> str:
    # The E form means the same with standard_conforming_strings on and off.
    doubled = value.replace("\\", "\\\\").replace("'", "''")
    return f"E'{doubled}'"
