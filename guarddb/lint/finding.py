"""What the lint of a migration says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

Severity: TypeAlias = Literal["info", "warning", "error"]

SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark on a migration.

    Attributes:
        severity: `error` stops others for as long as a table is large, destroys data, or cannot run as it is written; `warning`
            is worth a second look; `info` is worth knowing.
        rule: a tag in snake case, `missing_concurrently` for instance; docs/migrations.md has the list.
        message: the lock, on which relation, and the work under it.
        statement: the statement it is about, as it stands in the script; None when it is about the script as a whole.
        hint: the safe form, as SQL that can be run.
    """

    severity: Severity
    rule: str
    message: str
    statement: str | None = None
    hint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The wire shape: what there is none of is left out.

        >>> Finding("warning", "missing_lock_timeout", "no lock_timeout").to_dict()
        {'severity': 'warning', 'rule': 'missing_lock_timeout', 'message': 'no lock_timeout'}
        """
        wire: dict[str, Any] = {"severity": self.severity, "rule": self.rule, "message": self.message}
        if self.statement is not None:
            wire["statement"] = self.statement
        if self.hint is not None:
            wire["hint"] = self.hint
        return wire

    @classmethod
    def from_dict(cls, wire: dict[str, Any]) -> Finding:
        """What `to_dict` wrote.

        Raises:
            ValueError: it is none.
        """
        try:
            finding = cls(
                wire["severity"], wire["rule"], wire["message"], wire.get("statement"), wire.get("hint")
            )
        except (KeyError, TypeError, AttributeError):
            raise ValueError("not a finding: severity, rule and message are needed") from None
        texts = (finding.rule, finding.message, finding.statement or "", finding.hint or "")
        if finding.severity not in SEVERITIES or not all(isinstance(text, str) for text in texts):
            raise ValueError("not a finding: a severity of info, warning or error, and texts")
        return finding
