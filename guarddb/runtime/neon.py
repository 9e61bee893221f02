"""Branches by Neon's API: copy on write, ready in seconds, whatever the size.

https://api-docs.neon.tech/reference/createprojectbranch
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from guarddb.runtime.branches import Branch, BranchError, new_id

_API = "https://console.neon.tech/api/v2"
#: What our branches are called, so that others are never listed or thrown away.
_PREFIX = "guarddb-"
_STATES = {"init": "pending", "ready": "ready", "archived": "ready"}
#: How often, and for how many seconds, an operation is asked after.
_INTERVAL, _PATIENCE = 0.5, 120.0
_FAILED = frozenset({"failed", "error", "cancelled", "skipped"})


class NeonBranches:
    """A branch provider for a project of Neon's.

    The role and the password of the connection are the same on a branch; only the host is another one.

    Args:
        project: the project's id.
        api_key: `NEON_API_KEY` unless given.
        parent: the branch to start from; the project's default unless given.
        url: where the API is.
    """

    def __init__(
        self, project: str, api_key: str | None = None, *, parent: str | None = None, url: str = _API
    ) -> None:
        try:
            import httpx
        except ImportError:
            raise BranchError("branches by Neon's API need httpx: pip install 'guarddb[http]'") from None
        key = api_key or os.environ.get("NEON_API_KEY")
        if not key:
            raise BranchError("branches by Neon's API need a key: set NEON_API_KEY")
        self.project = project
        self._parent = parent
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}", "Accept": "application/json"}, timeout=30
        )
        self._errors: tuple[type[Exception], ...] = (httpx.HTTPError,)

    def create(self, conninfo: str) -> Branch:
        """A branch with an endpoint of its own, when it can be connected to."""
        id = new_id()
        branch: dict[str, Any] = {"name": _PREFIX + id}
        if self._parent is not None:
            branch["parent_id"] = self._parent
        made = self._ask(
            "POST",
            f"/projects/{self.project}/branches",
            {"branch": branch, "endpoints": [{"type": "read_write"}]},
        )
        found = made.get("branch", {})
        try:
            for operation in made.get("operations", ()):
                self._wait_for(operation)
            host = made["endpoints"][0]["host"]
        except (KeyError, IndexError, TypeError):
            self._throw_away(found)
            raise BranchError("Neon made a branch without an endpoint to connect to") from None
        except BranchError:
            self._throw_away(found)
            raise
        # The last one of a parameter that is given twice counts.
        return Branch(found["id"], f"{conninfo} host={host} hostaddr='' port=5432", self.project)

    def discard(self, branch: Branch) -> None:
        """Throw a branch away, its endpoint with it."""
        self._ask("DELETE", f"/projects/{self.project}/branches/{branch.id}", missing_is_fine=True)

    def list(self) -> Sequence[Branch]:
        """The project's branches that guarddb has made."""
        found = self._ask("GET", f"/projects/{self.project}/branches").get("branches", ())
        return [
            Branch(
                each["id"],
                "",
                self.project,
                _STATES.get(each.get("current_state", ""), "error"),  # type: ignore[arg-type]
                datetime.fromisoformat(each["created_at"]) if each.get("created_at") else None,
                each.get("logical_size"),
            )
            for each in found
            if str(each.get("name", "")).startswith(_PREFIX)
        ]

    def close(self) -> None:
        """Close the connections to the API."""
        self._http.close()

    def _throw_away(self, branch: dict[str, Any]) -> None:
        if branch.get("id"):
            self._ask("DELETE", f"/projects/{self.project}/branches/{branch['id']}", missing_is_fine=True)

    def _wait_for(self, operation: dict[str, Any]) -> None:
        until = time.monotonic() + _PATIENCE
        while operation.get("status") != "finished":
            if operation.get("status") in _FAILED:
                raise BranchError(
                    f"Neon could not make the branch: {operation.get('error') or operation.get('action') or operation['status']}"
                )
            if time.monotonic() > until:
                raise BranchError(f"Neon's branch was not ready within {_PATIENCE:.0f} seconds")
            time.sleep(_INTERVAL)
            path = f"/projects/{self.project}/operations/{operation['id']}"
            operation = self._ask("GET", path).get("operation", {})

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, missing_is_fine: bool = False
    ) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path, json=body)
        except self._errors as ex:
            raise BranchError(f"Neon's API does not answer: {type(ex).__name__}") from None
        if answer.status_code == 404 and missing_is_fine:
            return {}
        try:
            document = answer.json()
        except ValueError:
            document = {}
        if not isinstance(document, dict):
            document = {}
        if answer.is_error:
            raise BranchError(
                f"Neon's API says {answer.status_code}: {document.get('message', answer.reason_phrase)}"
            )
        return document
