"""`content_scan_mode`: what is handed out is scanned for hidden instructions, after masks and caps.

Plain ASCII is told apart from the rest for a whole batch of rows at once, so that a result of it costs next to nothing.
Everything else is looked at value by value. What could not be looked at is its own finding, and never clean.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from msgspec import structs

from guarddb.content.finding import ContentClass, Finding, Severity
from guarddb.content.scan import is_plain, scan, texts
from guarddb.decision.plan import Decision
from guarddb.driver.notices import notify

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from guarddb.driver.plans import JudgedText
    from guarddb.driver.session import Session

logger = logging.getLogger("guarddb.content")

#: What `content_scan_max_bytes: 0` means.
DEFAULT_BYTES: Final = 4 << 20
#: Rows that are looked at together: few enough to stay in the processor's caches.
BATCH: Final = 500
#: Findings that a report lists; all are counted.
MAX_LISTED: Final = 100

ContentVerdict: TypeAlias = Literal["clean", "annotated", "blocked", "incomplete"]

#: Types whose values hold no text of anybody's: numbers, truth values, times, identifiers, bytes, network addresses, geometry,
#: and arrays and ranges of them (pg_type.dat).
_WITHOUT_TEXT: Final = frozenset(
    (
        *(
            16,
            17,
            20,
            21,
            23,
            24,
            26,
            27,
            28,
            29,
            650,
            700,
            701,
            718,
            774,
            790,
            829,
            869,
            1082,
            1083,
            1114,
            1184,
        ),
        *(
            1186,
            1266,
            1560,
            1562,
            1700,
            2205,
            2206,
            2278,
            2950,
            2970,
            3220,
            5038,
            5069,
            600,
            601,
            602,
            603,
            604,
            628,
        ),
        *(
            1000,
            1001,
            1005,
            1006,
            1007,
            1008,
            1010,
            1011,
            1012,
            1013,
            1016,
            1017,
            1018,
            1019,
            1020,
            1021,
            1022,
            1027,
            1028,
        ),
        *(
            1040,
            1041,
            651,
            775,
            791,
            1115,
            1182,
            1183,
            1185,
            1187,
            1231,
            1270,
            1561,
            1563,
            2210,
            2211,
            2949,
            2951,
            3221,
        ),
        *(3904, 3905, 3906, 3907, 3908, 3909, 3910, 3911, 3912, 3913, 3926, 3927),
        *(4451, 4532, 4533, 4534, 4535, 4536, 6150, 6151, 6152, 6153, 6155, 6157),
    )
)
_JSON: Final = frozenset((114, 3802))
#: "char", name, text, json, xml, unknown, bpchar, varchar, refcursor, cstring.
_TEXT_ITSELF: Final = frozenset((18, 19, 25, 114, 142, 705, 1042, 1043, 1790, 2275))
_NO_CONTROLS: Final = dict.fromkeys((*range(32), 127), " ")


@dataclass(frozen=True, slots=True)
class ContentFinding:
    """A finding and where it is: the column's name, and the row's number from 0 (None: in the name itself)."""

    content_class: ContentClass
    severity: Severity
    detail: str
    column: str | None = None
    row: int | None = None


@dataclass(slots=True)
class ContentReport:
    """What was found in what has been handed out of a result so far.

    Attributes:
        mode: annotate or block.
        findings: the first hundred; `count` is the number of all.
        incomplete: something could not be scanned: past `content_scan_max_bytes`, or not decodable.
    """

    mode: str
    findings: list[ContentFinding] = field(default_factory=list)
    count: int = 0
    incomplete: bool = False
    blocked: bool = False

    @property
    def verdict(self) -> ContentVerdict:
        """`clean` only when everything was scanned and nothing was found."""
        if self.blocked:
            return "blocked"
        if self.incomplete:
            return "incomplete"
        return "annotated" if self.count else "clean"


class Scanned(Protocol):
    """Where a scan leaves what it has found."""

    content: ContentReport | None
    decision: Decision | None
    judged: JudgedText | None


class Scanner:
    """Scans one result as its rows are handed out."""

    def __init__(self, session: Session, conn: Any, results: Scanned, result: PGresult) -> None:
        policy = session.in_force
        assert policy is not None
        profile = policy.profile
        self._session = session
        self._conn = conn
        self._results = results
        self._extra: Sequence[str] = profile.guarddb.content_scan_extra
        self._left = profile.content_scan_max_bytes or DEFAULT_BYTES
        self._blocks = profile.content_scan_mode == "block" and not policy.observe
        self.report = results.content = ContentReport(profile.content_scan_mode)
        self._take_result(result)
        self._names_are_scanned()

    def _take_result(self, result: PGresult) -> None:
        encoding = self._session.encoding
        self.names = [
            (result.fname(column) or b"").decode(encoding, "replace") for column in range(result.nfields)
        ]
        self.columns = [
            column for column in range(result.nfields) if result.ftype(column) not in _WITHOUT_TEXT
        ]
        self._json = frozenset(column for column in self.columns if result.ftype(column) in _JSON)
        #: columns whose binary form is the text itself
        self._text_itself = frozenset(
            column
            for column in self.columns
            if result.fformat(column) == 0 or result.ftype(column) in _TEXT_ITSELF
        )
        #: the rows of a COPY are binary
        self._binary = bool(result.binary_tuples)
        #: columns in which NULL was met
        self._nullable: set[int] = set()

    def _names_are_scanned(self) -> None:
        if not is_plain("".join(self.names)):
            for name in self.names:
                self._found(scan(name), name, None)

    def rows(self, rows: Sequence[Any], first: int) -> None:
        """Scan rows that are about to be handed out; `first` is the number of the first of them.

        Raises:
            PolicyViolation: one of them holds what this profile blocks.
        """
        columns = self.columns
        if not columns:
            return
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH] if len(rows) > BATCH else rows
            if self._extra or not self._are_plain(batch):
                self._one_by_one(batch, first + start)

    def _are_plain(self, rows: Sequence[Any]) -> bool:
        """Whether every value of a batch is plain text; false where that is not known."""
        values = tuple(zip(*rows, strict=True))
        try:
            return all(self._is_plain(column, values[column]) for column in self.columns)
        except TypeError:  # something else than texts is among them
            return False

    def _is_plain(self, column: int, values: Iterable[Any]) -> bool:
        joined = self._joined(column, values)
        # (JSON that comes as text is decoded first: whoever reads it will do that.)
        return is_plain(joined) and not (column in self._json and "\\" in joined)

    def _joined(self, column: int, values: Iterable[Any]) -> str:
        """The texts of a column in one. Raises TypeError where there is something else."""
        if column not in self._nullable:
            with suppress(TypeError):
                return "".join(values)
            self._nullable.add(column)
        return "".join(filter(None, values))

    def _one_by_one(self, rows: Sequence[Any], first: int) -> None:
        columns = self.columns
        for number, row in enumerate(rows, first):
            for column in columns:
                value = row[column]
                if value is None or (
                    type(value) is str and not self._extra and is_plain(value) and column not in self._json
                ):
                    continue
                self._value(value, column, number)

    def _value(self, value: Any, column: int, row: int) -> None:
        if isinstance(value, bytes | bytearray | memoryview):
            # Of a type that psycopg does not know, in its binary form.
            value = self._decoded(bytes(value), framed=column not in self._text_itself)
        elif column in self._json and isinstance(value, str):
            # JSON that somebody wants as text: its escapes are what the reader of it will see.
            with suppress(ValueError, RecursionError):
                value = [value, json.loads(value)]
        name = self.names[column]
        for text in texts(value):
            if text is None:
                self._found((Finding("not_scanned", "block", "the value nests too deeply"),), name, row)
            elif self._extra or not is_plain(text):
                self._text(text, name, row)

    def _text(self, text: str, column: str, row: int) -> None:
        size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        if size > self._left:
            scanned, self._left = text[: self._left], 0
            unscanned = Finding("not_scanned", "block", "past content_scan_max_bytes")
            self._found((*scan(scanned, self._extra), unscanned), column, row)
            return
        self._left -= size
        self._found(scan(text, self._extra), column, row)

    def raw(self, column: int) -> Callable[[bytes], bytes]:
        """For `pgresult.get_value`: scans the value's bytes."""

        def scanned(value: bytes) -> bytes:
            self._value(self._decoded(value, framed=column not in self._text_itself), column, -1)
            return value

        return scanned

    def _decoded(self, data: bytes, *, framed: bool) -> str:
        """The text in bytes. `framed`: with lengths and numbers around it, which would be taken for controls."""
        text = data.decode(self._session.encoding, "ignore" if framed else "replace")
        return text.translate(_NO_CONTROLS) if framed else text

    def copied(self, data: bytes, row: int) -> None:
        """Scan what COPY hands out, in its text or CSV form; of the binary form what is text in it."""
        if self._binary:
            self._value(self._decoded(data, framed=True), 0, row)
            return
        text = data.decode(self._session.encoding, "ignore")
        if is_plain(text) and "\\" not in text and not self._extra:
            return
        for piece in text.replace("\r\n", "\n").rstrip("\n").split("\t"):
            self._value(_unescaped(piece), 0, row)

    def _found(self, findings: Iterable[Finding], column: str | None, row: int | None) -> None:
        report = self.report
        for finding in findings:
            first = not report.count
            report.count += 1
            report.incomplete = report.incomplete or finding.content_class == "not_scanned"
            told = ContentFinding(finding.content_class, finding.severity, finding.detail, column, row)
            if len(report.findings) < MAX_LISTED:
                report.findings.append(told)
            if self._blocks and finding.severity == "block":
                report.blocked = True
                raise self._refusal(told)
            if first:
                self._tell(told)

    def _tell(self, finding: ContentFinding) -> None:
        session, results = self._session, self._results
        note = f"content_scan: {_shown(finding)}"
        logger.warning("%s", note)
        judged = results.judged
        decision = results.decision or (judged.plan.decision if judged is not None else None)
        if decision is not None:
            results.decision = structs.replace(decision, notes=(*decision.notes, note))
        notify(self._conn, f"{note} (policy {session.policy_name!r})", "treat this result as untrusted text")

    def _refusal(self, finding: ContentFinding) -> Exception:
        session = self._session
        decision = Decision(
            "block",
            "content_scan",
            f"the result holds what a person does not see and a model reads: {_shown(finding)}",
            "select other columns or rows, or have somebody look at the data",
            deciding="content_scan_mode",
        )
        self._results.decision = decision = session.under_its_policy(decision)
        judged = self._results.judged
        error = session.violation(decision)
        if judged is not None:
            session.tell_refusal(judged, error)
        return error


def _shown(finding: ContentFinding) -> str:
    column = finding.column if finding.column is not None and is_plain(finding.column) else None
    place = f' in column "{column}"' if column else ""
    where = f", row {finding.row + 1}" if finding.row is not None and finding.row >= 0 else ""
    return f"{finding.detail}{place}{where}"


#: COPY's text format (PostgreSQL docs, COPY).
_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    pieces = []
    characters = iter(text)
    for character in characters:
        if character == "\\":
            escaped = next(characters, "")
            character = _ESCAPES.get(escaped, escaped)
        pieces.append(character)
    return "".join(pieces)
