"""Columns added, dropped, made NOT NULL, computed anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from guarddb.lint.acts import Act, Lock, Remark, Said, Target, Work
from guarddb.lint.rules.command import Command
from guarddb.lint.rules.expressions import Volatility, proved_not_null, volatile
from guarddb.lint.rules.hints import backfill, by_index, not_null, script_of, validated
from guarddb.lint.script import Script, type_names
from guarddb.lint.text import label, shown, shown_name
from guarddb.sql.names import literal
from guarddb.tree import Node

_SERIAL = {"smallserial": "smallint", "serial2": "smallint", "serial": "integer", "serial4": "integer",
           "bigserial": "bigint", "serial8": "bigint"}  # fmt: skip


@dataclass(slots=True)
class _Definition:
    """A column definition, taken apart."""

    name: str
    type_text: str
    serial: bool = False
    domain: Volatility = "no"
    default: Node | None = None
    default_text: str = ""
    constraints: dict[str, str] = field(default_factory=dict)
    references: Node | None = None

    @property
    def has_value(self) -> bool:
        """Whether old rows get something else than NULL."""
        return self.serial or self.default is not None or "CONSTR_IDENTITY" in self.constraints


def _read(command: Command, script: Script) -> _Definition:
    node = command.node["def"]["ColumnDef"]
    head, parts = command.statement.column_parts(node, command.text)
    names = type_names(node.get("typeName", {}))
    last = names[-1] if names else ""
    found = _Definition(node["colname"], _type_text(head), serial=last in _SERIAL)
    constraints = [
        each["Constraint"]
        for each in node.get("constraints", ())
        if not each["Constraint"].get("contype", "").startswith("CONSTR_ATTR_")
    ]
    for constraint, text in zip(constraints, [*parts, *[""] * len(constraints)], strict=False):
        kind = constraint.get("contype", "CONSTR_NULL")
        found.constraints[kind] = text
        if kind == "CONSTR_DEFAULT" and not _is_null(constraint["raw_expr"]):
            found.default, found.default_text = constraint["raw_expr"], _without_word(text, "DEFAULT")
        elif kind == "CONSTR_FOREIGN":
            found.references = constraint
        elif kind == "CONSTR_GENERATED":
            found.constraints[f"{kind}_{constraint.get('generated_kind', 's')}"] = text
        if constraint.get("is_enforced") is False or (
            kind in ("CONSTR_CHECK", "CONSTR_FOREIGN")
            and not constraint.get("is_enforced")
            and "NOT ENFORCED" in text.upper()
        ):
            found.constraints.pop(kind)
    domain = script.domain(names)
    if domain is not None:
        found.domain = "yes" if domain.constrained else "no"
    elif last in script.now.made_types:
        found.domain = "yes" if script.now.made_types[last] else "no"
    elif names and script.qualified_type(names) is None and not found.serial:
        found.domain = "unknown"
    return found


def add_column(command: Command, script: Script) -> Iterator[Said]:
    """ADD COLUMN changes catalogs only: NULL, or one value for all old rows, which PostgreSQL keeps beside the table.

    It rewrites the table where each row has a value of its own (a volatile default, serial, identity, STORED) or has to be
    checked against a
    domain; it reads the table for an inline CHECK or a NOT NULL without a default; and builds the index of an inline UNIQUE.
    """
    target, definition = command.target, _read(command, script)
    safe = script_of(_safely(target, definition, script))
    brief = Act(target, Lock.ACCESS_EXCLUSIVE, why=f"ADD COLUMN {shown(definition.name)}")
    yield from command.spread(brief, script)

    rewrite = _why_rewritten(definition, script)
    if rewrite is not None:
        why, certain = rewrite
        act = Act(
            target, Lock.ACCESS_EXCLUSIVE, Work.REWRITE, "table_rewrite", why,
            None if "CONSTR_GENERATED" in definition.constraints or definition.domain != "no" else safe, certain,
        )  # fmt: skip
        if "CONSTR_GENERATED_s" in definition.constraints:
            act = Act(
                act.target, act.lock, act.work, act.rule, why, _virtual(command, definition, script), certain
            )
        yield from command.spread(act, script)
    constraints = definition.constraints
    generated = "CONSTR_GENERATED" in constraints
    if "CONSTR_NOTNULL" in constraints or "CONSTR_PRIMARY" in constraints:
        if not (definition.has_value or generated or definition.domain == "yes"):
            yield Remark(
                "error",
                "not_null_without_default",
                f"ADD COLUMN {shown(definition.name)} NOT NULL without a default: an ACCESS EXCLUSIVE lock on {target.sql} "
                f"while PostgreSQL "
                "reads the whole table, and it fails at the first row",
                safe,
                target,
                loses=True,
                fixes=True,
            )
            yield from command.spread(Act(target, Lock.ACCESS_EXCLUSIVE, Work.SCAN, rule=""), script)
        elif "CONSTR_GENERATED_v" in constraints:
            yield from command.spread(Act(target, Lock.ACCESS_EXCLUSIVE, Work.SCAN, "not_null_scan",
                                          "ADD COLUMN … VIRTUAL NOT NULL"), script)  # fmt: skip
    if "CONSTR_CHECK" in constraints:
        yield from command.spread(Act(target, Lock.ACCESS_EXCLUSIVE, Work.SCAN, "missing_not_valid",
                                      "an inline CHECK in ADD COLUMN", safe), script)  # fmt: skip
    if "CONSTR_UNIQUE" in constraints or "CONSTR_PRIMARY" in constraints:
        word = "UNIQUE" if "CONSTR_UNIQUE" in constraints else "PRIMARY KEY"
        yield from command.spread(Act(target, Lock.ACCESS_EXCLUSIVE, Work.INDEX, "index_under_lock",
                                      f"an inline {word} in ADD COLUMN", safe), script)  # fmt: skip
    if definition.references is not None and "CONSTR_FOREIGN" in constraints:
        other = script.target(definition.references["pktable"])
        yield Act(other, Lock.SHARE_ROW_EXCLUSIVE, why="REFERENCES in ADD COLUMN", implied=True)
        for child in script.children(other) if other.relation and other.relation.kind == "p" else ():
            yield Act(child, Lock.SHARE_ROW_EXCLUSIVE, why="REFERENCES in ADD COLUMN", implied=True)
        if definition.has_value:
            yield from command.spread(Act(target, Lock.ACCESS_EXCLUSIVE, Work.FOREIGN_KEY, "missing_not_valid",
                                          f"an inline REFERENCES {other.sql} with a default", safe), script)  # fmt: skip


def _why_rewritten(definition: _Definition, script: Script) -> tuple[str, bool] | None:
    name = shown(definition.name)
    if definition.serial:
        return f"ADD COLUMN {name} serial, which numbers every row", True
    if "CONSTR_IDENTITY" in definition.constraints:
        return f"ADD COLUMN {name} as identity, which numbers every row", True
    if "CONSTR_GENERATED_s" in definition.constraints:
        return f"ADD COLUMN {name} GENERATED … STORED, which is computed for every row", True
    if definition.default is not None and (answer := volatile(definition.default, script)) != "no":
        kind = "volatile" if answer == "yes" else "not known to be immutable"
        return f"ADD COLUMN {name} with a default that is {kind}: {definition.default_text}", True
    if definition.domain == "yes":
        return f"ADD COLUMN {name} of a domain with constraints, which are checked for every row", True
    if definition.domain == "unknown":
        return (
            f"ADD COLUMN {name} of a type that nobody knows here; a domain with constraints is checked for every row",
            False,
        )
    return None


def _safely(target: Target, definition: _Definition, script: Script) -> list[str]:
    """The same column, step by step."""
    name, constraints = shown(definition.name), definition.constraints
    inline = [text for kind, text in constraints.items() if kind in ("CONSTR_NULL",) and text]
    later: list[str] = []
    filled = definition.has_value
    if definition.default is not None:
        if volatile(definition.default, script) == "no":
            inline.append(f"DEFAULT {definition.default_text}")
        else:
            later.append(
                f"ALTER TABLE {target.sql} ALTER COLUMN {name} SET DEFAULT {definition.default_text};"
            )
            later += backfill(target, f"{name} = DEFAULT", f"{name} IS NULL", script)
    type_text = definition.type_text
    if definition.serial or "CONSTR_IDENTITY" in constraints:
        type_text = _SERIAL.get(type_text.lower().removeprefix("pg_catalog."), type_text)
        qualified = shown_name(target.schema, label(target.name, definition.name, "seq"))
        later += [
            f"CREATE SEQUENCE {qualified} OWNED BY {target.sql}.{name};",
            f"ALTER TABLE {target.sql} ALTER COLUMN {name} SET DEFAULT nextval({literal(qualified).strip()});",
            *backfill(target, f"{name} = DEFAULT", f"{name} IS NULL", script),
        ]
    needs_not_null = definition.serial or bool(
        {"CONSTR_NOTNULL", "CONSTR_IDENTITY", "CONSTR_PRIMARY"} & constraints.keys()
    )
    if needs_not_null:
        if filled and not later:
            inline.append("NOT NULL")
        elif filled:
            later += not_null(target, definition.name, script)
        else:
            check = label(target.name, definition.name, "not_null", "check")
            later += [
                (
                    f"-- new rows must have a value from now on; fill the old ones in batches, then VALIDATE CONSTRAINT "
                    f"{shown(check)}"
                ),
                f"ALTER TABLE {target.sql} ADD CONSTRAINT {shown(check)} CHECK ({name} IS NOT NULL) NOT VALID;",
            ]
    if "CONSTR_CHECK" in constraints:
        later += _named(target, constraints["CONSTR_CHECK"], label(target.name, definition.name, "check"))
    if definition.references is not None and "CONSTR_FOREIGN" in constraints:
        if filled:
            later += _named(
                target,
                constraints["CONSTR_FOREIGN"],
                label(target.name, definition.name, "fkey"),
                f"FOREIGN KEY ({name}) ",
            )
        else:
            inline.append(constraints["CONSTR_FOREIGN"])
    for kind, word, suffix in (("CONSTR_UNIQUE", "UNIQUE", "key"), ("CONSTR_PRIMARY", "PRIMARY KEY", "")):
        if kind in constraints:
            index = label(target.name, definition.name, suffix) if suffix else label(target.name, "pkey")
            later += by_index(target, index, [definition.name], word)
    added = " ".join([f"ALTER TABLE {target.sql} ADD COLUMN {name} {type_text}", *inline])
    return [f"{added};", *later]


def _named(target: Target, text: str, name: str, before: str = "") -> list[str]:
    """An inline constraint as one of the table, under its own name or PostgreSQL's."""
    words = text.split(None, 2)
    if words and words[0].upper() == "CONSTRAINT" and len(words) == 3:
        name, text = words[1].strip('"'), words[2]
    return validated(target, name, before + text)


def _virtual(command: Command, definition: _Definition, script: Script) -> str | None:
    """PostgreSQL 18 computes such a column when it is read."""
    if not script.at_least(18):
        return None
    text = command.text
    at = text.upper().rfind("STORED")
    return (
        script_of([f"ALTER TABLE {command.target.sql} {text[:at]}VIRTUAL{text[at + 6 :]}"])
        if at > 0
        else None
    )


def _type_text(head: str) -> str:
    """What stands behind the name: the type, and COLLATE, STORAGE and the like."""
    if head.startswith('"'):
        end = 1
        while end < len(head) and (head[end] != '"' or head[end + 1 : end + 2] == '"'):
            end += 2 if head[end] == '"' else 1
        return head[end + 1 :].strip()
    return head.partition(" ")[2].strip()


def _without_word(text: str, word: str) -> str:
    return text[len(word) :].strip() if text.upper().startswith(word) else text


def _is_null(expression: Node) -> bool:
    inner = expression.get("TypeCast", {}).get("arg", expression)
    return bool(inner.get("A_Const", {}).get("isnull"))


def drop_column(command: Command, script: Script) -> Iterator[Said]:
    """DROP COLUMN: a moment's lock; the data is gone, and whoever still uses the column fails.

    A foreign key on the column goes with it, and that locks the *other* table as well.
    """
    target, name = command.target, command.node["name"]
    why = f"DROP COLUMN {shown(name)}"
    yield from command.spread(Act(target, Lock.ACCESS_EXCLUSIVE, why=why), script)
    for key in script.table(target).foreign_keys.values():
        if name in key.columns:
            yield Act(key.references, Lock.ACCESS_EXCLUSIVE, why=why, implied=True)
    if command.node.get("behavior") == "DROP_CASCADE":
        for view in script.views_on(target, name):
            yield Act(view, Lock.ACCESS_EXCLUSIVE, why=why, implied=True)
    yield Remark(
        "error",
        "unsafe_drop",
        f"DROP COLUMN destroys the data of {target.sql}.{shown(name)} with no undo, under an ACCESS EXCLUSIVE lock on "
        f"{target.sql}; "
        "whoever still uses the column fails",
        script_of([f"COMMENT ON COLUMN {target.sql}.{shown(name)} IS 'not used any more, to be dropped in a later release'"]),
        target,
        loses=True,
    )  # fmt: skip


def set_not_null(command: Command, script: Script) -> Iterator[Said]:
    """SET NOT NULL reads the whole table, unless a validated CHECK already proves it or the column is NOT NULL."""
    target, name = command.target, command.node["name"]
    why = f"SET NOT NULL on {shown(name)}"
    for each in (target, *(script.children(target) if command.recurses else ())):
        table = script.table(each)
        column = table.columns.get(name)
        done = (column is not None and column.not_null) or proved_not_null(table.checks, name)
        yield Act(
            each, Lock.ACCESS_EXCLUSIVE, None if done else Work.SCAN, "not_null_scan", why,
            script_of(not_null(target, name, script)), implied=each.key != target.key,
        )  # fmt: skip


def set_expression(command: Command, script: Script) -> Iterator[Said]:
    """SET EXPRESSION (PostgreSQL 17) computes a STORED column anew; a VIRTUAL one is computed when it is read."""
    column = script.table(command.target).columns.get(command.node["name"])
    virtual = column is not None and column.virtual
    yield from command.spread(
        Act(
            command.target, Lock.ACCESS_EXCLUSIVE, None if virtual else Work.REWRITE, "table_rewrite",
            f"SET EXPRESSION of {shown(command.node['name'])}, which is computed anew for every row if it is STORED",
        ),
        script,
    )  # fmt: skip
