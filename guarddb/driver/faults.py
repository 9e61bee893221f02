"""Row data cut out of what the server says about statements over masked or filtered relations.

PostgreSQL quotes values in its messages (`invalid input syntax for type integer: "…"`), in DETAIL (`Key
(email)=(…) already exists.`) and in CONTEXT. Class and SQLSTATE stay; names of tables, columns, types and
constraints stay; the values go.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from psycopg import errors as e
from psycopg.pq import DiagnosticField as Field

from guarddb.decision.advice.errors import did_you_mean
from guarddb.decision.plan import Decision
from guarddb.driver.counting import has_room_for
from guarddb.driver.positions import fields_of, placed
from guarddb.driver.withholding import WITHHELD, scans, without_hidden
from guarddb.errors import PolicyViolation

if TYPE_CHECKING:
    from guarddb.driver.session import Session

logger = logging.getLogger("guarddb")

#: Raised on purpose by the check that the engine adds to RETURNING; the table's name follows.
_ROW_FILTER_MARKER = re.compile(r"guarddb:row_filter_violation(?::([^\"\s]+(?: [^\"\s]+)*))?")

#: As PostgreSQL's translations quote: English, French, German, Polish, Portuguese, Japanese.
_QUOTED = re.compile(
    r'"[^"]*"|\'[^\']*\'|«[^»]*»|»[^«]*«|„[^“”]*[“”]|“[^”]*”|”[^”]*”|‘[^’]*’|「[^」]*」|『[^』]*』'
)
_BYTES = re.compile(r"(?:0x[0-9a-fA-F]{2}\s*)+")
_PARENTHESISED = re.compile(r"\s*\([^()]*\)")
_NAMES = (
    Field.SCHEMA_NAME,
    Field.TABLE_NAME,
    Field.COLUMN_NAME,
    Field.DATATYPE_NAME,
    Field.CONSTRAINT_NAME,
)
#: What may hold row data in whole.
_DROPPED = (
    Field.MESSAGE_DETAIL,
    Field.CONTEXT,
    Field.INTERNAL_QUERY,
    Field.INTERNAL_POSITION,
)
_RAISED = "an error was raised by a function or trigger; its text was cut, for it may hold row data"

#: Where PostgreSQL makes a tree of a text.
_PARSER = frozenset(("scan.l", "gram.y", "parser.c", "parse_type.c"))

#: `COPY t, line 3, column n: "x"`: of what the program itself sends. More lines are of what ran meanwhile.
_LINE_OF_COPY = re.compile(r"COPY [^\n]*\Z")

Fields = dict[int, bytes | None]


def cleaned(session: Session, diagnostic: e.Diagnostic) -> Fields | None:
    """The fields of a server message without row data, or None when there is nothing to cut."""
    if _of_the_statement(diagnostic) and not diagnostic.internal_query:
        return None  # parse analysis said this, before it saw a row
    encoding = diagnostic._encoding
    fields = fields_of(diagnostic)
    for field in _DROPPED:
        fields.pop(field, None)
    message = _of_the_whole(session, fields, diagnostic.message_primary or "", encoding)
    names = {value.decode(encoding, "replace") for name in _NAMES if (value := fields.get(name)) is not None}
    if diagnostic.source_function == "exec_stmt_raise":
        message = _RAISED
        for name in _NAMES:  # RAISE sets these to whatever it likes
            fields.pop(name, None)
        fields.pop(Field.MESSAGE_HINT, None)
    else:
        message = _without_values(message, names)
    fields[Field.MESSAGE_PRIMARY] = message.encode(encoding, "replace")
    hint = diagnostic.message_hint
    if hint and (_QUOTED.search(hint) or "(" in hint):
        fields.pop(Field.MESSAGE_HINT, None)
    return fields


def _of_the_whole(session: Session, fields: Fields, message: str, encoding: str) -> str:
    """What is said of one partition, said of the table, where the partition tells the masked key of the row."""
    policy, catalog = session.in_force, session.catalog
    table = fields.get(Field.TABLE_NAME)
    if policy is None or catalog is None or table is None:
        return message
    governance = policy.compiled.policy.governance(catalog)
    name = table.decode(encoding, "replace")
    part = catalog.relation((fields.get(Field.SCHEMA_NAME) or b"").decode(encoding, "replace"), name)
    if part is None or governance.rules_for(part).partition_of is None:
        return message
    whole = catalog.by_oid(part.ancestors[-1])
    if whole is None:
        return message
    fields[Field.SCHEMA_NAME] = whole.schema.encode(encoding, "replace")
    fields[Field.TABLE_NAME] = whole.name.encode(encoding, "replace")
    known = {each.name.encode(encoding, "replace") for each in whole.constraints}
    if fields.get(Field.CONSTRAINT_NAME) not in known:
        fields.pop(Field.CONSTRAINT_NAME, None)  # (An index of each partition has a name of its own.)
    return message.replace(f'"{name}"', f'"{whole.name}"')


def _of_the_statement(diagnostic: e.Diagnostic) -> bool:
    """Whether an error is about the very text that was sent: by its position in it, or as one of parse analysis that has none
    (a column of USING).

    Names of types are parsed and looked up at run time as well, of a row's value that is cast to regtype, by the same code: its
    positions are in the value then.
    """
    file = diagnostic.source_file or ""
    if diagnostic.statement_position:
        return not (diagnostic.context and file in _PARSER)
    return file.startswith("parse_") and file != "parse_type.c" and not diagnostic.context


def _without_values(message: str, names: set[str]) -> str:
    """
    >>> _without_values('invalid input syntax for type integer: "4111 1111"', set())
    'invalid input syntax for type integer'
    >>> _without_values('duplicate key value violates unique constraint "u_key"', {'u_key'})
    'duplicate key value violates unique constraint "u_key"'
    >>> _without_values('value "300" is out of range for type smallint', set())
    'value "…" is out of range for type smallint'
    >>> _without_values('Wert »300« ist außerhalb des gültigen Bereichs für Typ smallint', set())
    'Wert "…" ist außerhalb des gültigen Bereichs für Typ smallint'
    """
    message = message.partition(":")[0]
    message = _QUOTED.sub(lambda found: found[0] if found[0][1:-1] in names else '"…"', message)
    # A quote that does not close stands before a value that holds one itself.
    if message.count('"') % 2:
        message = message.partition('"')[0] + '"…"'
    return _PARENTHESISED.sub("", _BYTES.sub("… ", message)).strip()


def without_room(session: Session, diagnostic: e.Diagnostic) -> Fields | None:
    """The fields of a server message without the data that it quotes, where the budget of bytes has no room for it; else None.

    `SELECT (SELECT string_agg(note, '') FROM notes)::int` brings every note in the text of an error.
    """
    policy = session.in_force
    if policy is None or not policy.egress or (fields := cleaned(session, diagnostic)) is None:
        return None
    if (quoted := _size(fields_of(diagnostic))) == _size(fields) or has_room_for(session, quoted):
        return None
    return fields


def _size(fields: Fields) -> int:
    texts = (Field.MESSAGE_PRIMARY, Field.MESSAGE_HINT, *_DROPPED)
    return sum(len(fields.get(each) or b"") for each in texts)


def row_filter_violation(session: Session, error: e.Error) -> PolicyViolation | None:
    """The refusal in place of the error that guarddb's own check of a written row raises; None for any other error."""
    diagnostic = error.diag
    if diagnostic.sqlstate != "22P02":
        return None
    marker = _ROW_FILTER_MARKER.search(diagnostic.message_primary or "")
    if marker is None:
        return None
    violation = _row_filter_violation(session, marker[1])
    session.last_message = f"ERROR:  {violation}\n"
    return violation


def _of_others(session: Session, diagnostic: e.Diagnostic) -> bool:
    """Whether an error after a write is about more than what the statement names: a foreign key's action quotes the row it met,
    and so may whatever a trigger does. (Of what somebody raises there with words of their own, these are left.)
    """
    policy = session.in_force
    if not session.wrote or policy is None or not policy.compiled.policy.restricts_data:
        return False
    if diagnostic.source_function == "exec_stmt_raise":
        return False
    if diagnostic.internal_query:
        return True
    if diagnostic.context and not _LINE_OF_COPY.match(diagnostic.context):
        return True
    if diagnostic.table_name is None:
        return False
    last, catalog = session.last, session.catalog
    named = {name for s in last.plan.statements for name in s.facts.relations} if last is not None else set()
    relation = (
        catalog.relation(diagnostic.schema_name or "", diagnostic.table_name) if catalog is not None else None
    )
    if relation is None or catalog is None:
        return True
    of = (relation, *(each for oid in relation.ancestors if (each := catalog.by_oid(oid)) is not None))
    return named.isdisjoint(f"{each.schema}.{each.name}" for each in of)


def translated(session: Session, error: e.Error) -> e.Error:
    """What the agent gets in place of an error of the server's; often the error itself."""
    info = error._info
    if info is None or isinstance(error, PolicyViolation) or session.observe:
        return error
    diagnostic = error.diag
    if (violation := row_filter_violation(session, error)) is not None:
        return violation
    if (session.sensitive or _of_others(session, diagnostic)) and (
        fields := cleaned(session, diagnostic)
    ) is not None:
        # In place: class, SQLSTATE and traceback stay, and with the PGresult goes the only copy of the
        # values.
        error._info = fields
        message = (fields[Field.MESSAGE_PRIMARY] or b"").decode(error._encoding, "replace")
        error.args = (message,)
        session.met_sensitive = True
    elif (fields := without_room(session, diagnostic)) is not None:
        error._info = fields
        error.args = ((fields[Field.MESSAGE_PRIMARY] or b"").decode(error._encoding, "replace"),)
        session.met_sensitive = True
    placed(error, session.last)
    _advised(session, error)
    if scans(session) and (withheld := without_hidden(session, error.diag)) is not None:
        error._info = withheld
        error.args = (WITHHELD,)
        session.met_sensitive = True
    severity = (error._info.get(Field.SEVERITY) if isinstance(error._info, dict) else None) or b"ERROR"
    session.last_message = f"{severity.decode(error._encoding, 'replace')}:  {error}\n"
    return error


def _advised(session: Session, error: e.Error) -> None:
    """Add what may have been meant to an error about a name that is not there."""
    policy, catalog = session.in_force, session.catalog
    if policy is None or catalog is None or policy.profile.forbids_nothing:
        return
    last = session.last
    relations = tuple(r for s in last.plan.statements for r in s.facts.relations) if last is not None else ()
    primary = error.diag.message_primary or ""
    said = error.diag.message_hint or ""
    sql = last.text if last is not None else ""
    try:
        hint = did_you_mean(
            error.diag.sqlstate, primary, policy.compiled.policy, catalog, relations, sql, said
        )
    except Exception:
        logger.exception("no hint could be made for an error of the server")
        return
    if hint is None:
        return
    fields = error._info if isinstance(error._info, dict) else fields_of(error.diag)
    before = fields.get(Field.MESSAGE_HINT)
    fields[Field.MESSAGE_HINT] = (before + b" " if before else b"") + hint.encode(error._encoding, "replace")
    error._info = fields
    error.args = (f"{error}\nHINT:  {hint}",)


def message_of_the_connection(session: Session, message: str) -> str:
    """libpq's copy of the server's last message, as the exception says it.

    libpq holds it until the next command; which statement it is about is not said there. So on a connection that has met
    masked or filtered rows no text is passed on that an exception has not passed on before.
    """
    if not message or session.observe or not session.met_sensitive:
        return message
    return session.last_message


def _row_filter_violation(session: Session, table: str | None) -> PolicyViolation:
    where = f' of table "{table}"' if table else ""
    reason = f"a row that the statement writes would be outside the row filter{where}; nothing of it was kept"
    hint = "write only rows that the filter lets you see"
    deciding = None
    last = session.last
    if last is not None and (predicate := last.plan.decision.row_filter_predicate):
        hint = f"write only rows for which this is true: {predicate}"
        entry = last.plan.decision.deciding
        deciding = entry if entry is not None and entry.startswith("row_filters") else None
    decision = Decision("block", "row_filter_violation", reason, hint, deciding=deciding)
    return session.violation(session.under_its_policy(decision))
