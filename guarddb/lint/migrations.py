"""The lint of a migration: a script of SQL, judged as a whole by the locks that PostgreSQL takes and the work it does under
them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from guarddb.lint.acts import Act, Lock, Said, Work
from guarddb.lint.finding import Finding
from guarddb.lint.following import follow
from guarddb.lint.judging import findings_of, is_strong
from guarddb.lint.rules import indexes, objects, reads, rows, storage, tables
from guarddb.lint.rules.altering import alter_table, rename, set_schema
from guarddb.lint.rules.blocks import refused_in_a_transaction
from guarddb.lint.rules.hints import script_of
from guarddb.lint.script import NEWEST, Check, ForeignKey, Script
from guarddb.lint.sizes import size_of
from guarddb.lint.text import StatementText
from guarddb.sql.catalog import Catalog, check_catalog
from guarddb.tree import Node, SQLSyntaxError, nodes, parse

#: How long a statement should wait for a lock, at the most, while others wait behind it.
LOCK_TIMEOUT = "2s"

Rule: TypeAlias = Callable[[StatementText, Script], Iterator[Said]]

#: Which rule knows which statement. What is not here locks no table that others use.
RULES: Mapping[str, Rule] = {
    "IndexStmt": indexes.create_index,
    "ReindexStmt": indexes.reindex,
    "AlterTableStmt": alter_table,
    "RenameStmt": rename,
    "AlterObjectSchemaStmt": set_schema,
    "CreateStmt": tables.create_table,
    "CreateTableAsStmt": reads.create_as,
    "SelectStmt": reads.query,
    "ExplainStmt": reads.explain,
    "ViewStmt": tables.create_view,
    "DropStmt": tables.drop,
    "TruncateStmt": tables.truncate,
    "LockStmt": tables.lock_table,
    "DropOwnedStmt": tables.drop_everything,
    "DropdbStmt": tables.drop_everything,
    "AlterTableMoveAllStmt": tables.move_all,
    "CopyStmt": reads.copy,
    "ClusterStmt": storage.cluster,
    "VacuumStmt": storage.vacuum,
    "RefreshMatViewStmt": storage.refresh,
    "CreateTrigStmt": objects.create_trigger,
    "RuleStmt": objects.create_rule,
    "CreatePolicyStmt": objects.create_rule,
    "AlterPolicyStmt": objects.create_rule,
    "AlterEnumStmt": objects.alter_enum,
    "AlterDomainStmt": objects.alter_domain,
    "DoStmt": objects.opaque,
    "CallStmt": objects.opaque,
    "AlterExtensionStmt": objects.opaque,
    "UpdateStmt": rows.update,
    "DeleteStmt": rows.update,
    "InsertStmt": rows.insert,
    "MergeStmt": tables.merge,
}

_TRANSACTION_VERBS = {
    "TRANS_STMT_BEGIN": "begin",
    "TRANS_STMT_START": "begin",
    "TRANS_STMT_COMMIT": "commit",
    "TRANS_STMT_ROLLBACK": "rollback",
    "TRANS_STMT_SAVEPOINT": "savepoint",
    "TRANS_STMT_ROLLBACK_TO": "rollback to",
    "TRANS_STMT_PREPARE": "commit",
}


@dataclass(frozen=True, slots=True)
class Step:
    """A statement of a script with what is said of it and what was found."""

    statement: StatementText
    said: tuple[Said, ...]
    findings: tuple[Finding, ...]
    in_transaction: bool


def lint(
    sql: str,
    catalog: Catalog | None = None,
    *,
    in_transaction: bool = False,
    server_version: int | None = None,
) -> list[Finding]:
    """What a migration would do to everybody else. Nothing is run. It is safe when no finding is an `error`.

    The whole script counts: a table that it made itself, a CHECK that it validated, the locks that its transaction still
    holds. Without BEGIN
    each statement is a transaction of its own, as psql runs a file.

    Args:
        sql: the script.
        catalog: the database before it, see `Catalog.from_connection`: then sizes, constraints, types and the server's version
        count. Without
            one the answer says so where it depends on that.
        in_transaction: the whole script runs in one transaction (`psql -1`, a migration framework).
        server_version: the server's version where the catalog does not tell: 16, or 160004.

    Returns:
        Findings in the order of the script.

    Raises:
        TypeError: the script is no text, or the catalog none of guarddb's.

    >>> [finding.rule for finding in lint("CREATE INDEX ON orders (total)")]
    ['missing_concurrently', 'missing_lock_timeout']
    """
    if not isinstance(sql, str):
        raise TypeError(f"the script to judge is a text (str), not {type(sql).__name__}")
    check_catalog(catalog)
    try:
        steps = list(walk(sql, catalog, in_transaction=in_transaction, server_version=server_version))
    except SQLSyntaxError as ex:
        where = f" at character {ex.position + 1}" if ex.position is not None else ""
        return [Finding("error", "parse_error", f"the script is not PostgreSQL's SQL: {ex}{where}")]
    except RecursionError:
        return [Finding("error", "parse_error", "the script nests too deeply to be judged")]
    return [finding for step in steps for finding in step.findings]


def walk(
    sql: str,
    catalog: Catalog | None = None,
    *,
    in_transaction: bool = False,
    server_version: int | None = None,
) -> Iterator[Step]:
    """Every statement of a script, in order, each with what it does.

    Raises:
        SQLSyntaxError: it does not parse.
    """
    yield from walk_parsed(
        sql, parse(sql, checked=False), catalog, in_transaction=in_transaction, server_version=server_version
    )


def lint_parsed(
    sql: str, raws: list[Node], catalog: Catalog | None, *, in_transaction: bool
) -> list[Finding]:
    """`lint` of a text that has been parsed already."""
    steps = walk_parsed(sql, raws, catalog, in_transaction=in_transaction)
    return [finding for step in steps for finding in step.findings]


def walk_parsed(
    sql: str,
    raws: list[Node],
    catalog: Catalog | None,
    *,
    in_transaction: bool = False,
    server_version: int | None = None,
) -> Iterator[Step]:
    """`walk` of a text that has been parsed already."""
    version = catalog.server_version if catalog is not None else server_version
    major = None if version is None else version // 10000 if version >= 10000 else version
    script = Script(catalog, major, in_transaction=in_transaction)
    encoded = sql.encode()
    asked_for_timeout = False
    for raw in raws:
        statement = StatementText(raw, encoded)
        within = script.in_transaction
        refused = tuple(refused_in_a_transaction(statement, script))
        if statement.kind == "TransactionStmt":
            _control(statement, script)
            yield Step(statement, refused, tuple(findings_of(refused, statement, script)), within)
            continue
        rule = RULES.get(statement.kind)
        said = (*rule(statement, script), *refused) if rule is not None else refused
        found = [*findings_of(said, statement, script), *_with_held(said, statement, script)]
        found += _too_new(statement, script)
        waits = [
            each
            for each in said
            if isinstance(each, Act) and is_strong(each) and not script.is_new(each.target)
        ]
        if waits and not asked_for_timeout and not script.has_lock_timeout:
            asked_for_timeout = True
            found.append(_no_timeout(waits[0], statement))
        yield Step(statement, said, tuple(found), within)
        for each in waits:
            script.hold(each)
        follow(statement, script)
        script.statement_ends()


def _control(statement: StatementText, script: Script) -> None:
    verb = _TRANSACTION_VERBS.get(statement.fields.get("kind", "TRANS_STMT_BEGIN"))
    name = statement.fields.get("savepoint_name", "")
    if verb == "begin":
        script.begin()
    elif verb in ("commit", "rollback"):
        script.end(undone=verb == "rollback")
        if statement.fields.get("chain"):
            script.begin()
    elif verb == "savepoint":
        script.savepoint(name)
    elif verb == "rollback to":
        script.rollback_to(name)


def _no_timeout(act: Act, statement: StatementText) -> Finding:
    return Finding(
        "warning",
        "missing_lock_timeout",
        f"no lock_timeout is set: {act.why or 'this'} needs {'an' if act.lock.sql[0] in 'AE' else 'a'} {act.lock.sql} lock on "
        f"{act.target.sql}, "
        f"and while it waits for running queries, all {act.lock.blocked} wait behind it",
        statement.text,
        script_of([f"SET lock_timeout = '{LOCK_TIMEOUT}'", statement.text]),
    )


def _with_held(said: tuple[Said, ...], statement: StatementText, script: Script) -> Iterator[Finding]:
    """What a statement does while the transaction still holds the locks of those before it."""
    yield from _new_values(statement, script)
    held = [act for act in script.exclusively_held() if not script.is_new(act.target)]
    if not held:
        return
    names = ", ".join(act.target.sql for act in held)
    work = [
        act
        for act in said
        if isinstance(act, Act) and act.work is not None and not script.is_new(act.target) and not act.implied
    ]
    large = [act for act in work if not size_of(act.target, script).tiny]
    if any(act.lock is Lock.ROW_EXCLUSIVE for act in work):
        if large:
            yield Finding(
                "error",
                "backfill_in_transaction",
                f"rows of {large[0].target.sql} are written in the transaction that holds an ACCESS EXCLUSIVE lock on {names}: "
                f"reads and writes "
                "wait until all of it is committed",
                statement.text,
                _after_commit(statement, large[0], script),
            )
        return
    already = {act.target.key for act in held}
    for act in large:
        # (What blocks by itself has its finding already.)
        if (
            act.lock < Lock.SHARE
            and act.work in (Work.SCAN, Work.FOREIGN_KEY, Work.INDEX)
            and not act.momentary
        ):
            if statement.kind == "AlterTableStmt" and act.target.key in already:
                if any(f.added_in == script.transaction for f in _added(act, script)):
                    return  # validate_in_transaction says so
            yield Finding(
                "error" if act.certain else "warning",
                "lock_held",
                f"{act.target.sql} is read in the transaction that holds an ACCESS EXCLUSIVE lock on {names}: reads and writes "
                f"wait until the commit",
                statement.text,
                script_of(["COMMIT", statement.text]),
            )
            return
    others = [
        act
        for act in said
        if isinstance(act, Act) and is_strong(act) and not script.is_new(act.target) and act.target.key not in already
        and not act.implied
    ]  # fmt: skip
    if others:
        yield Finding(
            "warning",
            "lock_held",
            f"this waits for {'an' if others[0].lock.sql[0] in 'AE' else 'a'} {others[0].lock.sql} lock on "
            f"{others[0].target.sql} while the transaction "
            f"holds ACCESS EXCLUSIVE on {names}: reads and writes of both wait, and two such scripts can deadlock",
            statement.text,
            script_of(["COMMIT", "BEGIN", statement.text]),
        )


def _added(act: Act, script: Script) -> list[Check | ForeignKey]:
    table = script.table(act.target)
    return [*table.checks.values(), *table.foreign_keys.values()]


def _after_commit(statement: StatementText, act: Act, script: Script) -> str | None:
    batches = rows.batched(statement, act.target, script)
    return script_of(["COMMIT", batches or statement.text])


def _new_values(statement: StatementText, script: Script) -> Iterator[Finding]:
    """A value that ALTER TYPE … ADD VALUE made cannot be used before the commit."""
    if not script.in_transaction or not script.now.made_values or statement.kind == "AlterEnumStmt":
        return
    for kind, fields in nodes(statement.fields):
        if kind == "A_Const" and fields.get("sval", {}).get("sval") in script.now.made_values:
            yield Finding(
                "error",
                "enum_value_in_transaction",
                f"the value '{fields['sval']['sval']}' of an enum is used in the transaction that added it; PostgreSQL refuses "
                f"that "
                "(unsafe use of new value)",
                statement.text,
                script_of(["COMMIT", statement.text]),
            )
            return


#: Syntax that the parser knows and an older server does not: (since, what, how to find it).
def _too_new(statement: StatementText, script: Script) -> Iterator[Finding]:
    if script.major is None or script.major >= NEWEST:
        return
    for kind, fields in nodes(statement.fields):
        since, what = 0, ""
        if kind == "Constraint":
            if fields.get("contype") == "CONSTR_GENERATED" and fields.get("generated_kind") == "v":
                since, what = 18, "a VIRTUAL generated column"
            elif fields.get("contype") == "CONSTR_NOTNULL" and fields.get("keys"):
                since, what = 18, "ADD CONSTRAINT … NOT NULL"
            elif fields.get("contype") in ("CONSTR_CHECK", "CONSTR_FOREIGN") and not fields.get(
                "is_enforced"
            ):
                since, what = 18, "NOT ENFORCED"
            elif fields.get("without_overlaps") or fields.get("fk_with_period"):
                since, what = 18, "a temporal key"
        elif kind == "AlterTableCmd" and fields.get("subtype") == "AT_SetExpression":
            since, what = 17, "ALTER COLUMN … SET EXPRESSION"
        if since > script.major:
            yield Finding(
                "error",
                "unsupported_by_server",
                f"{what} needs PostgreSQL {since}; this server is {script.major}",
                statement.text,
            )
            return
