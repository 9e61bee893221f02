"""Tables and views made and dropped."""

from __future__ import annotations

from collections.abc import Iterator

from guarddb.lint.acts import Act, Lock, Remark, Said, Target, Work
from guarddb.lint.rules.hints import script_of
from guarddb.lint.rules.partitions import create_partition
from guarddb.lint.script import Script
from guarddb.lint.text import StatementText, label, shown
from guarddb.sql.names import string_list
from guarddb.tree import nodes

#: What of DROP destroys data that nothing else holds.
_HOLDS_DATA = {
    "OBJECT_TABLE": "table",
    "OBJECT_FOREIGN_TABLE": "foreign table",
    "OBJECT_SEQUENCE": "sequence",
    "OBJECT_SCHEMA": "schema",
    "OBJECT_MATVIEW": "materialized view",
}


def create_table(statement: StatementText, script: Script) -> Iterator[Said]:
    """A new table is nobody's concern; but its foreign keys lock the tables that they reference, and PARTITION OF its
    parent."""
    fields = statement.fields
    if fields.get("partbound") is not None:
        yield from create_partition(statement, script)
    else:
        for parent in fields.get("inhRelations", ()):
            yield Act(script.target(parent["RangeVar"]), Lock.SHARE_UPDATE_EXCLUSIVE, rule="")
    new = script.to_make(fields["relation"])
    for kind, constraint in nodes(fields.get("tableElts", ())):
        if kind == "Constraint" and constraint.get("contype") == "CONSTR_FOREIGN":
            other = script.target(constraint["pktable"])
            if other.key != new.key:
                for each in (
                    other,
                    *(script.children(other) if other.relation and other.relation.kind == "p" else ()),
                ):
                    yield Act(
                        each,
                        Lock.SHARE_ROW_EXCLUSIVE,
                        why="REFERENCES in CREATE TABLE",
                        implied=each.key != other.key,
                    )


def drop(statement: StatementText, script: Script) -> Iterator[Said]:
    """DROP: ACCESS EXCLUSIVE for a moment, on the table, its parent, and every table that a foreign key of it references."""
    fields = statement.fields
    kind = fields["removeType"]
    if kind == "OBJECT_INDEX":
        from guarddb.lint.rules.indexes import drop_index

        yield from drop_index(statement, script)
        return
    cascade = fields.get("behavior") == "DROP_CASCADE"
    if kind in ("OBJECT_TRIGGER", "OBJECT_RULE", "OBJECT_POLICY"):
        for each in fields["objects"]:
            names = string_list(each["List"]["items"])
            table = script.named(names[-3] if len(names) > 2 else None, names[-2])
            word = kind.removeprefix("OBJECT_")
            yield Act(table, Lock.ACCESS_EXCLUSIVE, why=f"DROP {word}")
            for child in script.children(table) if kind == "OBJECT_TRIGGER" else ():
                yield Act(child, Lock.ACCESS_EXCLUSIVE, why=f"DROP {word}", implied=True)
        return
    if kind in ("OBJECT_TABLE", "OBJECT_FOREIGN_TABLE", "OBJECT_VIEW", "OBJECT_MATVIEW"):
        for each in fields["objects"]:
            names = string_list(each["List"]["items"])
            target = script.named(names[-2] if len(names) > 1 else None, names[-1])
            yield from _drop_relation(target, kind, script, cascade=cascade)
        return
    if kind in _HOLDS_DATA:
        what = _HOLDS_DATA[kind]
        yield Remark(
            "error",
            "unsafe_drop",
            f"DROP {what.upper()}{' CASCADE' if cascade else ''} destroys what it holds with no undo; each table in it is "
            f"locked ACCESS EXCLUSIVE",
        )
    elif cascade:
        yield Remark(
            "warning",
            "cascade",
            "DROP … CASCADE also drops whatever depends on it, columns of tables included, each under an ACCESS EXCLUSIVE lock",
            script_of([statement.text[: statement.text.upper().rfind("CASCADE")].rstrip()]),
        )


def _drop_relation(target: Target, kind: str, script: Script, *, cascade: bool) -> Iterator[Said]:
    why = f"DROP {kind.removeprefix('OBJECT_').replace('_', ' ').replace('MATVIEW', 'MATERIALIZED VIEW')} {target.sql}"
    yield Act(target, Lock.ACCESS_EXCLUSIVE, why=why)
    if cascade:
        yield from _cascades(target, kind, why, script)
    if kind == "OBJECT_VIEW":
        return
    tables = [
        target,
        *(script.children(target) if cascade or (target.relation and target.relation.kind == "p") else ()),
    ]
    others: dict[tuple[str, str], Target] = {}
    for table in tables:
        if table.key != target.key:
            yield Act(table, Lock.ACCESS_EXCLUSIVE, why=why, implied=True)
        for key in script.table(table).foreign_keys.values():
            for other in (key.references, *script.children(key.references)):
                others[other.key] = other
        if cascade:
            others |= {other.key: other for other in script.referencing(table)}
    if target.relation is not None and target.relation.partition_bound is not None:
        parent = script.parent(target)
        if parent is not None:
            others[parent.key] = parent
            for sibling in script.children(parent):
                if sibling.relation is not None and sibling.relation.partition_bound == "DEFAULT":
                    others[sibling.key] = sibling
    for table in tables:
        others.pop(table.key, None)
    for other in others.values():
        yield Act(other, Lock.ACCESS_EXCLUSIVE, why=why, implied=True)
    locked = [other.sql for other in others.values() if not script.is_new(other)]
    also = f", and locks {', '.join(locked)} ACCESS EXCLUSIVE as well" if locked else ""
    yield Remark(
        "error" if kind != "OBJECT_MATVIEW" else "warning",
        "unsafe_drop",
        f"{why} destroys its data with no undo{also}; whoever still uses it fails",
        script_of([f"ALTER TABLE {target.sql} RENAME TO {shown(label(target.name, 'to_be_dropped'))}"]),
        target,
        loses=True,
    )


def _cascades(target: Target, kind: str, why: str, script: Script) -> Iterator[Said]:
    """The views that read what is dropped go with it, and so do columns of a view's row type, with what they hold."""
    views = script.views_on(target)
    for view in views:
        yield Act(view, Lock.ACCESS_EXCLUSIVE, why=why, implied=True)
    columns = [found for each in (target, *views) for found in script.columns_of_type(each)]
    for table, _ in columns:
        yield Act(table, Lock.ACCESS_EXCLUSIVE, why=why, implied=True)
    names = [view.sql for view in views] + [
        f"the column {shown(name)} of {table.sql}" for table, name in columns
    ]
    if names or kind == "OBJECT_VIEW":
        yield Remark(
            "error" if columns else "warning",
            "cascade",
            f"{why} CASCADE also drops whatever depends on it, each under an ACCESS EXCLUSIVE lock"
            + (f": {', '.join(names)}" if names else ""),
            script_of([f"DROP {why.removeprefix('DROP ')}"]),
            target,
        )


def create_view(statement: StatementText, script: Script) -> Iterator[Said]:
    """CREATE OR REPLACE VIEW locks the view that it replaces."""
    if statement.fields.get("replace"):
        target = script.target(statement.fields["view"])
        if target.relation is not None:
            yield Act(target, Lock.ACCESS_EXCLUSIVE, why="CREATE OR REPLACE VIEW")


def truncate(statement: StatementText, script: Script) -> Iterator[Said]:
    """TRUNCATE: ACCESS EXCLUSIVE until the commit, and the rows are gone."""
    fields = statement.fields
    cascade = fields.get("behavior") == "DROP_CASCADE"
    for each in fields["relations"]:
        target = script.target(each["RangeVar"])
        tables = {t.key: t for t in (target, *script.children(target))}
        if cascade:
            stack = list(tables.values())
            while stack:
                for other in script.referencing(stack.pop()):
                    if other.key not in tables:
                        tables[other.key] = other
                        stack.append(other)
        for table in tables.values():
            yield Act(table, Lock.ACCESS_EXCLUSIVE, why="TRUNCATE", implied=table.key != target.key)
        also = [table.sql for table in tables.values() if table.key != target.key]
        yield Remark(
            "error",
            "truncate",
            f"TRUNCATE destroys the rows of {target.sql}{' and of ' + ', '.join(also) if also else ''} with no undo, under an "
            f"ACCESS EXCLUSIVE lock",
            script_of([f"ALTER TABLE {target.sql} RENAME TO {shown(label(target.name, 'to_be_dropped'))}",
                       f"CREATE TABLE {target.sql} (LIKE {shown(label(target.name, 'to_be_dropped'))} INCLUDING ALL)"]),
            target,
            loses=True,
        )  # fmt: skip


def lock_table(statement: StatementText, script: Script) -> Iterator[Said]:
    """LOCK TABLE keeps others out until the transaction ends."""
    mode = Lock(statement.fields["mode"])
    for each in statement.fields["relations"]:
        target = script.target(each["RangeVar"])
        tables = [target, *(script.children(target) if each["RangeVar"].get("inh") else ())]
        for table in tables:
            yield Act(table, mode, why=f"LOCK TABLE IN {mode.sql} MODE", implied=table.key != target.key)
        if mode.blocks_writes:
            yield Remark(
                "warning",
                "lock_table",
                f"LOCK TABLE: {'an' if mode.sql[0] in 'AE' else 'a'} {mode.sql} lock on {target.sql} blocks {mode.blocked} "
                f"until the "
                "transaction ends",
                script_of(["SET lock_timeout = '2s'", statement.text]),
                target,
            )


def drop_everything(statement: StatementText, script: Script) -> Iterator[Said]:
    """DROP OWNED, DROP DATABASE: tables that nobody names here go as well."""
    what = "DROP DATABASE" if statement.kind == "DropdbStmt" else "DROP OWNED"
    yield Remark(
        "error",
        "unsafe_drop",
        f"{what} destroys data with no undo; each table in it is locked ACCESS EXCLUSIVE",
    )


def move_all(statement: StatementText, script: Script) -> Iterator[Said]:
    """ALTER TABLE ALL IN TABLESPACE … SET TABLESPACE copies every table of a tablespace."""
    yield Remark(
        "error",
        "table_rewrite",
        "ALTER … ALL IN TABLESPACE: an ACCESS EXCLUSIVE lock on each table blocks reads and writes while PostgreSQL copies "
        "it, and all are "
        "held until the last one is done",
    )


def merge(statement: StatementText, script: Script) -> Iterator[Said]:
    """MERGE reads its source and writes rows; nobody waits for it, unless a lock is held."""
    yield Act(script.target(statement.fields["relation"]), Lock.ROW_EXCLUSIVE, Work.SCAN, rule="")
