"""CREATE, DROP and REINDEX of indexes."""

from __future__ import annotations

from collections.abc import Iterator

from guarddb.lint.acts import Act, Lock, Remark, Said, Target, Work
from guarddb.lint.rules.hints import script_of
from guarddb.lint.script import Script
from guarddb.lint.text import StatementText, label, shown, shown_name
from guarddb.sql.names import string_list


def outside(statement: StatementText) -> str:
    """A statement that cannot run in a transaction, taken out of it."""
    return script_of(["COMMIT", statement.text, "BEGIN"])


def in_transaction(statement: StatementText, what: str) -> Remark:
    return Remark(
        "error",
        "concurrently_in_transaction",
        f"{what} cannot run inside a transaction block; PostgreSQL refuses it",
        outside(statement),
    )


def create_index(statement: StatementText, script: Script) -> Iterator[Said]:
    """A plain CREATE INDEX keeps writers out until it is built; CONCURRENTLY does not, and cannot run in a transaction.

    On a partitioned table it is the other way round: CONCURRENTLY does not exist there, so the index is made ON ONLY the
    parent, and those of the partitions are built one by one and attached.
    """
    fields = statement.fields
    target = script.target(fields["relation"])
    partitioned = target.relation is not None and target.relation.kind == "p"
    if fields.get("concurrent"):
        if script.in_transaction:
            yield in_transaction(statement, "CREATE INDEX CONCURRENTLY")
        if partitioned:
            yield Remark(
                "error",
                "concurrently_on_partitioned_table",
                f"{target.sql} is partitioned, and there PostgreSQL knows no CREATE INDEX CONCURRENTLY",
                _by_partition(statement, target, script),
                fixes=True,
            )
        else:
            yield Act(target, Lock.SHARE_UPDATE_EXCLUSIVE, Work.INDEX, momentary=True)
        return
    if fields.get("if_not_exists") and fields.get("idxname") in script.table(target).indexes:
        yield Act(target, Lock.SHARE, why="CREATE INDEX IF NOT EXISTS")
        return
    only = not fields["relation"].get("inh")
    if only and (partitioned or target.relation is None):
        yield Act(target, Lock.SHARE, why="CREATE INDEX ON ONLY")
        return
    safe = (
        _by_partition(statement, target, script)
        if partitioned
        else statement.insert_after("INDEX", text="CONCURRENTLY")
    )
    why = "CREATE INDEX without CONCURRENTLY"
    yield Act(target, Lock.SHARE, Work.INDEX, "missing_concurrently", why, safe and script_of([safe]))
    if partitioned:
        for child in script.children(target):
            yield Act(child, Lock.SHARE, Work.INDEX, "missing_concurrently", why, implied=True)


def _by_partition(statement: StatementText, target: Target, script: Script) -> str | None:
    """ON ONLY the parent, CONCURRENTLY on each partition, attached one by one."""
    places = [token for token in statement.tokens if token.name == "ON"]
    method = next((token for token in statement.tokens if token.name in ("USING", "ASCII_40")), None)
    if not places or method is None:
        return None
    rest = statement.text[method.start :]
    unique = "UNIQUE " if statement.fields.get("unique") else ""
    name = statement.fields.get("idxname") or label(target.name, _columns(statement), "idx")
    made = [f"CREATE {unique}INDEX {shown(name)} ON ONLY {target.sql} {rest}"]
    leaves = script.children(target)
    if any(leaf.relation is None or leaf.relation.kind == "p" for leaf in leaves):
        return None  # partitions of partitions: the same again for each level
    for leaf in leaves:
        index = label(leaf.name, _columns(statement), "idx")
        made.append(f"CREATE {unique}INDEX CONCURRENTLY {shown(index)} ON {leaf.sql} {rest}")
        made.append(
            f"ALTER INDEX {shown_name(target.schema, name)} ATTACH PARTITION {shown_name(leaf.schema, index)}"
        )
    return script_of(made)


def _columns(statement: StatementText) -> str:
    return "_".join(
        element.get("IndexElem", {}).get("name", "expr")
        for element in statement.fields.get("indexParams", ())
    )


def drop_index(statement: StatementText, script: Script) -> Iterator[Said]:
    """DROP INDEX takes ACCESS EXCLUSIVE on the table for a moment: it waits for every reader, and everybody behind it waits
    too."""
    fields = statement.fields
    names = [string_list(each["List"]["items"]) for each in fields["objects"]]
    tables = [script.index(name[-2] if len(name) > 1 else None, name[-1]) for name in names]
    if fields.get("concurrent"):
        if script.in_transaction:
            yield in_transaction(statement, "DROP INDEX CONCURRENTLY")
        for table in tables:
            if table is not None:
                yield Act(table, Lock.SHARE_UPDATE_EXCLUSIVE, momentary=True)
        return
    why = "DROP INDEX without CONCURRENTLY"
    dropped = [
        f"DROP INDEX CONCURRENTLY {'IF EXISTS ' if fields.get('missing_ok') else ''}{shown_name(*_pair(name))}"
        for name in names
    ]
    for table in tables:
        if table is None:
            continue
        yield Act(table, Lock.ACCESS_EXCLUSIVE, why=why)
        for child in script.children(table) if table.relation and table.relation.kind == "p" else ():
            yield Act(child, Lock.ACCESS_EXCLUSIVE, why=why, implied=True)
    known = [table for table in tables if table is not None]
    if known and all(script.is_new(table) for table in known):
        return
    partitioned = any(table.relation is not None and table.relation.kind == "p" for table in known)
    on = ", ".join(table.sql for table in known) or "the table"
    yield Remark(
        "warning",
        "missing_concurrently",
        f"{why}: an ACCESS EXCLUSIVE lock on {on} waits for every running query there, and all others wait behind it",
        None if partitioned or fields.get("behavior") == "DROP_CASCADE" else script_of(dropped),
        fixes=True,
    )


def _pair(name: list[str]) -> tuple[str | None, str]:
    return (name[-2] if len(name) > 1 else None), name[-1]


def reindex(statement: StatementText, script: Script) -> Iterator[Said]:
    """REINDEX keeps writers out, and readers too: planning a query opens every index of the table."""
    fields = statement.fields
    kind = fields.get("kind", "REINDEX_OBJECT_INDEX").removeprefix("REINDEX_OBJECT_")
    concurrently = any(
        p.get("DefElem", {}).get("defname") == "concurrently" for p in fields.get("params", ())
    )
    if concurrently and script.in_transaction:
        yield in_transaction(statement, "REINDEX CONCURRENTLY")
    if kind not in ("INDEX", "TABLE"):
        if script.in_transaction and not concurrently:
            yield in_transaction(statement, f"REINDEX {kind}")
        if not concurrently:
            yield Remark(
                "error",
                "missing_concurrently",
                f"REINDEX {kind} without CONCURRENTLY: a SHARE lock on each table and an ACCESS EXCLUSIVE lock on each index "
                f"block "
                "reads and writes while PostgreSQL builds the indexes",
                None if kind == "SYSTEM" else _concurrently(statement, kind),
                fixes=True,
            )
        return
    relation = fields["relation"]
    schema, name = relation.get("schemaname"), relation["relname"]
    table = script.target(relation) if kind == "TABLE" else script.index(schema, name)
    if table is None:
        table = Target(schema or script.search_path[0], name)
    if concurrently:
        yield Act(table, Lock.SHARE_UPDATE_EXCLUSIVE, Work.INDEX, momentary=True)
        return
    if table.relation is not None and table.relation.kind != "p" and not script.table(table).indexes:
        yield Act(table, Lock.SHARE, why="REINDEX TABLE")
        return
    why = f"REINDEX {kind} without CONCURRENTLY (which locks the index itself ACCESS EXCLUSIVE, so that reads wait as well)"
    yield Act(table, Lock.SHARE, Work.INDEX, "missing_concurrently", why, _concurrently(statement, kind))
    if table.relation is not None and table.relation.kind == "p":
        for child in script.children(table):
            yield Act(child, Lock.SHARE, Work.INDEX, "missing_concurrently", why, implied=True)


def _concurrently(statement: StatementText, kind: str) -> str | None:
    made = statement.insert_after(kind if kind != "TABLE" else "TABLE", text="CONCURRENTLY")
    return None if made is None else script_of([made])
