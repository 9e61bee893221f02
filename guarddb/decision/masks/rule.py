"""Masking: a masked column may be selected, and nothing else unless the profile says so.

The refusals are here, with what is reported of masks; `mask_writing` puts the masks into the SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from guarddb.decision.case import Case
from guarddb.decision.on_catalog import CompiledPolicy, Governance
from guarddb.decision.plan import MaskedColumn
from guarddb.decision.refusal import Finding, Refusal
from guarddb.decision.relation_rules import RelationRules
from guarddb.sql.analysis.definitions import Definition
from guarddb.sql.catalog import Catalog
from guarddb.sql.names import quote, string_list
from guarddb.sql.statement import PREDICATE_CLAUSES, WRITE_MODES, Link, Output, Reference, Root, Statement
from guarddb.tree import Node, nodes
from guarddb.vocabulary import MaskKind

_NO_KINDS: Mapping[int, MaskKind] = MappingProxyType({})

# ---------------------------------------------------------------------- what is refused


def masking(case: Case) -> Refusal | None:
    r"""The first use of a masked column that is more than being selected.

    >>> import guarddb
    >>> policy = {"masking_rules": [{"table": "people", "column": "ssn", "kind": "redact"}]}
    >>> guarddb.evaluate("SELECT upper(ssn) FROM people", policy).rule
    'masked_column_expression'
    >>> guarddb.evaluate("SELECT ssn FROM people", policy).rewritten_sql
    'SELECT CASE WHEN ssn IS NOT NULL THEN \'[redacted]\'::pg_catalog.text END AS "ssn" FROM people'
    """
    statement, policy, governance = case.statement, case.policy, case.governance
    if not governance.masks:
        return None
    touched: dict[Reference, RelationRules] = {}
    plain: set[Reference] = set()  # the mentions of relations that have no masks
    for reference, rules in case.ruled:
        if rules.masks:
            touched[reference] = rules
        else:
            plain.add(reference)
        relation = reference.relation
        if relation is not None and relation.has_rules and reference.mode in WRITE_MODES:
            return Refusal(
                "masked_column_expression",
                f'"{reference.qualified_name}" has rules (CREATE RULE), and what their statements return passes no mask',
                "Write to a table without rules.",
            )
        if rules.predicate_masks and reference.mode != "ddl":
            return Refusal(
                "masked_column_predicate",
                f'view "{reference.qualified_name}" filters, joins, groups or sorts by the masked column '
                f'"{rules.predicate_masks[0]}"',
                "Read the tables below the view, without the masked column in a condition.",
            )
    if not statement.references and any(d.verb == "cluster" for d in statement.definitions):
        return Refusal(
            "masked_column_predicate",
            "CLUSTER of every table is refused: the order in which rows lie would tell about masked values",
            "Leave it to somebody who may see all values.",
        )
    if not touched:
        return None
    for reference, rules in touched.items():
        if (rules.masked_key is not None or rules.partition_of is not None) and (
            told := governance.told_of_key(reference, statement)
        ) is not None:
            return Refusal(
                "masked_column_predicate",
                f'in which partition a row of "{reference.qualified_name}" is tells its masked column "{told}"',
                "Read the partitioned table itself, without tableoid, ctid and EXPLAIN ANALYZE.",
            )
        if reference.unmapped_alias or (reference.alias_columns and _twice(reference)):
            return Refusal(
                "masked_column_rename",
                f'the column aliases of "{reference.alias}" could rename a masked column of "{reference.qualified_name}"',
                "Leave out the alias column list.",
            )
    refusal = _structure(statement, governance, touched) if statement.ddl is not None else None
    if refusal is None and statement.analyzes:
        refusal = _analyzed(case, touched)
    if refusal is not None:
        return refusal
    if "update" in statement.kinds and (refusal := _in_part(case)) is not None:
        return refusal
    for _, counted, _ in statement.row_counts:
        if governance.rules(counted).masks and not is_countable(counted, governance):
            return Refusal(
                "masked_column_expression",
                f'a row of "{counted.qualified_name}", which has masked columns, may be NULL here and cannot be counted',
                "Count a column that is not masked, or count(*).",
            )
    found = _looked_through(case, touched, plain)
    if found == "nothing":
        case.marks.clean = True
    elif found == "something":
        for root in statement.roots:
            for link, _ in root.uses:
                if type(link) is tuple and link[0] in plain:
                    continue
                if governance.mask_of(link, case.marks) is None:
                    continue
                refusal = _judge(root, link, case)
                if refusal is not None:
                    return refusal
    return _copy(statement, policy, governance) if statement.command == "CopyStmt" else None


def _in_part(case: Case) -> Refusal | None:
    """A write of a part of a masked value: whether that fails, and what a hash of the whole is then, tells of the rest."""
    for query in case.statement.queries:
        target = query.target
        for name in sorted(query.in_part) if target is not None else ():
            assert target is not None
            if case.governance.mask_of((target, name), case.marks) is not None:
                return Refusal(
                    "masked_column_write",
                    f'a part of the masked column "{case.governance.shown((target, name))}" may not be written: '
                    "what comes of that depends on the rest of its value",
                    "Write the whole value.",
                )
    return None


def _looked_through(
    case: Case, touched: Mapping[Reference, RelationRules], plain: set[Reference]
) -> Literal["nothing", "outputs", "something"]:
    """Whether an output or an expression of a statement goes back to a masked column, in whatever way: one walk over them all.

    Args:
        touched: the mentions of relations with masks.
        plain: those of relations without.

    Returns:
        "outputs": an output does, and no expression.
    """
    statement, mask_of = case.statement, case.governance.mask_of
    outputs: list[Link] = []
    for link in {link for root in statement.roots for link, _ in root.uses}:
        if type(link) is not tuple:
            outputs.append(link)
        elif link[0] not in plain:
            rules = touched.get(link[0])
            if (rules is None or link[1] in rules.masks or link[1] not in rules.columns) and mask_of(
                link
            ) is not None:
                return "something"
    top = statement.top
    if not outputs and top is not None and len(statement.queries) == 1:
        case.marks.top = masks = _masks_of(top.outputs, case, touched)
        return "outputs" if masks else "nothing"
    otherwise: Literal["outputs", "something"] = "something" if outputs else "outputs"
    # (What their expressions take has been looked at above.)
    known = {output for query in statement.queries for output in query.outputs}
    links = {link for output in known for link in output.links}
    links.update(outputs, [link for output in known if output.opaque for link in output.opaque])
    further = list(links - known)
    for link in further:  # (It grows.)
        if type(link) is tuple:
            if link[0] not in plain:
                rules = touched.get(link[0])
                if (rules is None or link[1] in rules.masks or link[1] not in rules.columns) and mask_of(
                    link
                ) is not None:
                    return otherwise
        elif link not in known:
            assert isinstance(link, Output)
            known.add(link)
            further += link.links
            further += link.opaque
            if link.root is not None:
                further += [use for use, _ in link.root.uses]
    return "nothing"


def _masks_of(
    outputs: Sequence[Output], case: Case, touched: Mapping[Reference, RelationRules]
) -> dict[int, MaskKind]:
    """The masks on those of some outputs that have one, by their indexes."""
    found: dict[int, MaskKind] = {}
    bare = True
    for index, output in enumerate(outputs):
        # A bare column, as most are: the rules for its relation are at hand.
        if output.root is None and not output.opaque:
            links = output.links
            if type(link := links[0] if links else None) is tuple and len(links) == 1:
                reference, column = link
                rules = touched.get(reference)
                if rules is not None:
                    if (kind := rules.masks.get(column)) is not None:
                        found[index] = kind
                        continue
                    if column in rules.columns:
                        continue
        bare = False
        if (kind := case.governance.mask_of(output, case.marks)) is not None:
            found[index] = kind
    case.marks.bare = bare
    return found


def comes_as_null(case: Case) -> Finding | None:
    """A note where a masked column comes as NULL under every kind of mask: from a scalar sub-select, or in a whole row.

    >>> import guarddb
    >>> policy = {"masking_rules": [{"table": "people", "column": "ssn", "kind": "redact"}]}
    >>> guarddb.evaluate("SELECT (SELECT ssn FROM people) AS s", policy).notes[0][:31]
    '"s" comes as NULL: a scalar sub'
    """
    if case.marks.clean or not case.governance.masks:
        return None
    if case.marks.bare and len(case.statement.queries) == 1:
        return None
    for query in case.statement.queries:
        for output in query.outputs:
            if output.opaque and case.governance.mask_of(output, case.marks) is not None:
                return Finding(
                    "ok",
                    f'"{output.name}" comes as NULL: a scalar sub-select or a whole row over masked columns does, whatever '
                    "the kind of their masks; select the columns themselves",
                )
    return None


def is_countable(reference: Reference, governance: Governance) -> bool:
    """Whether count(t) can be written without the row of `t`."""
    return not is_missing_side(reference) or witness(reference, governance) is not None


def is_missing_side(reference: Reference) -> bool:
    """Whether an outer join can put NULLs in the place of a row of the relation, in its own query."""
    nullable = {("JOIN_LEFT", "r"), ("JOIN_RIGHT", "l"), ("JOIN_FULL", "l"), ("JOIN_FULL", "r")}
    return any((join.get("jointype", "JOIN_INNER"), side) in nullable for join, side in reference.joins)


def witness(reference: Reference, governance: Governance) -> str | None:
    """A column, as it is seen by the relation's alias, that is never NULL in a row and has no mask; None where there is none."""
    relation = reference.relation
    if relation is None or reference.hidden_by_join_alias:
        return None
    masks = governance.rules(reference).masks
    listed = reference.alias_columns or ()
    names = [*listed, *(a.name for a in relation.attributes[len(listed) :])]
    for attribute, name in zip(relation.attributes, names, strict=False):
        if attribute.not_null and attribute.name not in masks and names.count(name) == 1:
            return quote(name)
    return "tableoid" if relation.kind in "rpm" and "tableoid" not in names else None


def _twice(reference: Reference) -> bool:
    """The alias list gives one name to two columns: neither can be named any more."""
    relation, aliases = reference.relation, reference.alias_columns
    if relation is None or not aliases:
        return False
    seen = [aliases[i] if i < len(aliases) else a.name for i, a in enumerate(relation.attributes)]
    return len(set(seen)) < len(seen)


def _judge(root: Root, link: Link, case: Case) -> Refusal | None:
    governance, marks = case.governance, case.marks
    shown = governance.shown(link)
    clause = root.clause
    if clause in PREDICATE_CLAUSES:
        if governance.use_allowed(link, root):
            if case.statement.analyzes and clause in _KEEPS_ROWS:
                return _told_by_memory(f'the masked column "{shown}"')
            if isinstance(link, Output) and link.query is root.query:
                # The clause names an output of its own query: the value below stays raw, the output itself is masked.
                for below in link.links:
                    marks.demand_raw(below)
            else:
                marks.demand_raw(link)
            return None
        return Refusal(
            "masked_column_predicate",
            f'masked column "{shown}" may be selected, but not used to {_PURPOSE.get(clause, "choose rows")}',
            "Select the column as it is, and filter, join, group or sort by columns that are not masked.",
        )
    if clause in ("write", "set"):
        return Refusal(
            "masked_column_write",
            f'masked column "{shown}" may be selected, but not written anywhere',
            "Write a value of your own, or leave the masked column out.",
        )
    if clause == "ddl":
        return Refusal(
            "masked_column_rename",
            f'masked column "{shown}" may not be named in a definition',
            "Leave the masked column out of the definition.",
        )
    return Refusal(
        "masked_column_expression",
        f'masked column "{shown}" may be selected as it is, but not used in an expression',
        "Select the column by itself, without a function, an operator or a cast.",
    )


def _analyzed(case: Case, touched: Iterable[Reference]) -> Refusal | None:
    """EXPLAIN ANALYZE of what carries masked values where no mask can be written: in a view that sorts, groups or joins what
    it hands out, and behind a wall."""
    for reference in touched:
        masks = case.governance.rules(reference).masks
        relation = reference.relation
        if relation is not None and relation.kind == "v" and not case.governance.is_pulled_up(relation):
            return _told_by_memory(f'the view "{reference.qualified_name}"')
        if case.wall is not None and not set(masks.values()) <= {"null"}:
            return _told_by_memory(f'"{reference.qualified_name}"')
    return None


def _told_by_memory(what: str) -> Refusal:
    return Refusal(
        "masked_column_predicate",
        f"EXPLAIN ANALYZE of {what} tells how much memory masked values take, and so how long they are",
        "Use EXPLAIN without ANALYZE.",
    )


#: Clauses for which an executor keeps rows, and tells how large they are.
_KEEPS_ROWS = frozenset(("on", "using", "group", "order", "distinct", "setop", "window"))

_PURPOSE = {
    "where": "filter rows",
    "filter": "filter rows",
    "on": "join",
    "using": "join",
    "having": "filter groups",
    "group": "group rows",
    "order": "sort rows",
    "distinct": "tell rows apart",
    "setop": "tell rows apart",
    "window": "order or partition a window",
    "conflict": "find a conflicting row",
}


def _structure(statement: Statement, governance: Governance, touched: Iterable[Reference]) -> Refusal | None:
    """Definitions that would bring a masked column, or its relation, under another name."""
    if statement.ddl is None or "ddl" not in statement.kinds:
        return None
    definition = statement.definitions[0]
    fields = definition.fields
    stores_a_query = definition.command in ("CreateTableAsStmt", "ViewStmt")
    if stores_a_query or definition.verb in ("grant", "revoke", "comment", "label"):
        return None
    named = _names_in(fields)
    for reference in touched:
        if reference.mode != "ddl" or (
            definition.command == "CreateStmt" and reference.node is fields.get("relation")
        ):
            continue  # (A table that is about to be holds nothing; what its expressions do is judged by their columns.)
        rules = governance.rules(reference)
        if rules.masked_key is not None and "tableoid" in named:
            return Refusal(
                "masked_column_rename",
                f'in which partition a row of "{reference.qualified_name}" is tells its masked column "{rules.masked_key}"',
                "Leave tableoid out of the definition.",
            )
        for column in rules.masks:
            if column in named:
                return Refusal(
                    "masked_column_rename",
                    f'masked column "{reference.qualified_name}.{column}" may not be named in a definition',
                    "Leave the masked column out of the definition.",
                )
        if brings_under_another_name(definition):
            return Refusal(
                "masked_column_rename",
                f'this would bring the rows of "{reference.qualified_name}", which has masked columns, under another name',
                "Leave the table's name, schema and parents as they are.",
            )
    return None


def brings_under_another_name(definition: Definition) -> bool:
    """RENAME of a relation, SET SCHEMA, ATTACH PARTITION, INHERIT."""
    if definition.verb == "rename":
        return definition.object not in ("column", "table constraint")
    return definition.verb == "move" or any(part.verb in _MOVES for part in definition.parts)


#: Parts of ALTER TABLE that change which rows a name means.
_MOVES = frozenset(("attach partition", "detach partition", "add inherit", "drop inherit", "add of"))


def _names_in(tree: Node) -> set[str]:
    """Every identifier in a definition."""
    found: set[str] = set()
    for _, node in nodes(tree):
        for key in ("sval", "name", "colname", "subname", "newname", "relname"):
            if isinstance(value := node.get(key), str):
                found.add(value)
    return found


def _copy(statement: Statement, policy: CompiledPolicy, governance: Governance) -> Refusal | None:
    if statement.command != "CopyStmt" or policy.profile.guarddb.hash_key_env is None:
        return None
    kinds: list[MaskKind | None] = []
    if statement.top is not None:
        kinds = [governance.mask_of(output) for output in statement.top.outputs]
    elif not statement.fields.get("is_from"):
        columns = string_list(statement.fields.get("attlist", ()))
        kinds = [
            kind
            for reference in statement.references
            for column, kind in governance.rules(reference).masks.items()
            if not columns or column in columns
        ]
    if "hash" in kinds:
        return Refusal(
            "masked_column_expression",
            "a column masked by a keyed hash cannot be copied: its mask is made in the process, where COPY does not pass",
            "Leave the column out of the COPY, or use SELECT.",
        )
    return None


# ---------------------------------------------------------------------- what is reported


def reported(case: Case) -> tuple[tuple[MaskedColumn, ...], Mapping[int, MaskKind]]:
    """Every masked column of every touched relation, and every output that carries one; and by its index in the statement's
    own result each such output's kind."""
    columns: list[MaskedColumn] = []
    for _, rules in case.ruled:
        if rules.masks:
            columns += rules.masked
    if not columns:
        return (), _NO_KINDS
    top, marks = case.statement.top, case.marks
    kinds: Mapping[int, MaskKind] = _NO_KINDS
    if top is not None and not marks.clean:
        if marks.top is None:
            marks.top = _masks_of(top.outputs, case, {r: rules for r, rules in case.ruled if rules.masks})
        kinds = marks.top
        for index, kind in kinds.items():
            output = top.outputs[index]
            if output.open is None:
                columns.append(MaskedColumn(output.name, kind))
    return tuple(dict.fromkeys(columns)), kinds


def origin_masks(policy: CompiledPolicy, catalog: Catalog) -> Mapping[tuple[int, int], MaskKind]:
    """Every masked column of a catalog by (table OID, attribute number), as a row description names them."""
    governance = policy.governance(catalog)
    found: dict[tuple[int, int], MaskKind] = {}
    if governance.masks:
        for relation in catalog.relations.values():
            masks = governance.rules_for(relation).masks
            for attribute in relation.attributes if masks else ():
                if attribute.name in masks:
                    found[relation.oid, attribute.number] = masks[attribute.name]
    return found
