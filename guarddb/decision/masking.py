"""Masking: a masked column may be selected, and nothing else unless the profile says so.

The refusals come first (`masking`); then `mask_outputs` writes the masks into the SQL, each at the lowest target list above
which nothing needs the raw value. So the raw value does not flow on inside the statement, and what a rule might overlook further
out sees the mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guarddb.decision.compiled import CompiledPolicy, Governance
from guarddb.decision.decision import MaskedColumn
from guarddb.decision.refusal import Refusal
from guarddb.sql.catalog import Attribute, Catalog
from guarddb.sql.names import quote
from guarddb.sql.rewrite import Rewriter
from guarddb.sql.statement import PREDICATE_CLAUSES, Link, Output, Query, Reference, Root, Statement, origins
from guarddb.tree import Node, nodes
from guarddb.vocabulary import MASK_STRENGTH, MaskKind, MaskUseKind, strictest

REDACTED = "[redacted]"
_CHARACTER = "S"
#: Types whose cast to text is not what PostgreSQL prints: true/t, padded char(n), 1.2.3.4/32.
_CAST_DIFFERS = frozenset(("pg_catalog.bool", "pg_catalog.bpchar", "pg_catalog.inet", "pg_catalog.cidr"))


class Unmappable(Exception):
    """A star over a masked relation whose columns nobody knows: the text to send cannot be written without a catalog."""


# ---------------------------------------------------------------------- what is refused


def masking(statement: Statement, policy: CompiledPolicy, catalog: Catalog | None) -> Refusal | None:
    """The first use of a masked column that is more than being selected."""
    governance = policy.governance(catalog)
    if not governance.masks:
        return None
    touched = [r for r in statement.references if governance.rules(r).masks]
    for reference in statement.references:
        hidden = governance.rules(reference).predicate_masks
        if hidden and reference.mode != "ddl":
            return Refusal(
                "masked_column_predicate",
                f'view "{reference.qualified_name}" filters, joins, groups or sorts by the masked column "{hidden[0]}"',
                "Read the tables below the view, without the masked column in a condition.",
            )
    if not touched:
        return None
    for reference in touched:
        if reference.unmapped_alias:
            return Refusal(
                "masked_column_rename",
                f'the column aliases of "{reference.alias}" could rename a masked column of "{reference.qualified_name}"',
                "Leave out the alias column list.",
            )
    refusal = _structure(statement, governance, touched)
    if refusal is not None:
        return refusal
    for root in statement.roots:
        for link, _ in root.uses:
            if governance.mask_of(link) is None:
                continue
            refusal = _judge(root, link, governance)
            if refusal is not None:
                return refusal
    return _copy(statement, policy, governance)


def _judge(root: Root, link: Link, governance: Governance) -> Refusal | None:
    shown = governance.shown(link)
    clause = root.clause
    if clause in PREDICATE_CLAUSES:
        if governance.use_allowed(link, root):
            demand_raw(link)
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


def _structure(statement: Statement, governance: Governance, touched: list[Reference]) -> Refusal | None:
    """Definitions that would bring a masked column, or its relation, under another name."""
    if statement.ddl is None or "ddl" not in statement.kinds:
        return None
    command, fields = statement.ddl
    if command in ("CreateTableAsStmt", "ViewStmt", "GrantStmt", "CommentStmt"):
        return None
    named = _names_in(fields)
    for reference in touched:
        if reference.mode != "ddl":
            continue
        masks = governance.rules(reference).masks
        for column in masks:
            if column in named:
                return Refusal(
                    "masked_column_rename",
                    f'masked column "{reference.qualified_name}.{column}" may not be named in a definition',
                    "Leave the masked column out of the definition.",
                )
        if brings_under_another_name(command, fields):
            return Refusal(
                "masked_column_rename",
                f'this would bring the rows of "{reference.qualified_name}", which has masked columns, under another name',
                "Leave the table's name, schema and parents as they are.",
            )
    return None


def brings_under_another_name(command: str, fields: Node) -> bool:
    """RENAME of a relation, SET SCHEMA, ATTACH PARTITION, INHERIT."""
    if command == "RenameStmt":
        return (
            fields.get("renameType") != "OBJECT_COLUMN" and fields.get("renameType") != "OBJECT_TABCONSTRAINT"
        )
    if command == "AlterObjectSchemaStmt":
        return True
    if command == "AlterTableStmt":
        moves = ("AT_AttachPartition", "AT_DetachPartition", "AT_AddInherit", "AT_DropInherit", "AT_AddOf")
        return any(w["AlterTableCmd"].get("subtype") in moves for w in fields.get("cmds", ()))
    return False


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
        kinds = [
            kind for reference in statement.references for kind in governance.rules(reference).masks.values()
        ]
    if "hash" in kinds:
        return Refusal(
            "masked_column_expression",
            "a column masked by a keyed hash cannot be copied: its mask is made in the process, where COPY does not pass",
            "Leave the column out of the COPY, or use SELECT.",
        )
    return None


def use_kinds(root: Root, link: Link) -> frozenset[MaskUseKind]:
    """What a clause does with a column, in the words of `mask_uses`; empty when none of them fits."""
    if root.clause == "using":
        return frozenset(("join",))
    if root.clause == "conflict":
        return frozenset(("equality",))
    if root.clause == "group":
        node = root.node
        bare = isinstance(node, dict) and ("ColumnRef" in node or "A_Const" in node)
        return frozenset(("group",)) if bare else frozenset()
    if root.clause not in ("where", "on", "having", "filter"):
        return frozenset()
    wanted = {id(column) for used, column in root.uses if used is link or used == link}
    if any(column is None for used, column in root.uses if used is link or used == link):
        return frozenset()
    found: set[MaskUseKind] = set()
    stack: list[Any] = [root.node]
    while stack:
        node = stack.pop()
        if "BoolExpr" in node:
            stack.extend(node["BoolExpr"]["args"])
            continue
        comparison = node.get("A_Expr")
        if comparison is None or comparison["name"][-1]["String"]["sval"] != "=":
            continue
        kind = comparison.get("kind", "AEXPR_OP")
        left, right = comparison.get("lexpr", {}), comparison.get("rexpr", {})
        for side, other in ((left, right), (right, left)):
            column = side.get("ColumnRef") if isinstance(side, dict) else None
            if column is None or id(column) not in wanted:
                continue
            if kind == "AEXPR_OP" and "ColumnRef" in other:
                found.add("join")
                wanted.discard(id(column))
            elif (kind == "AEXPR_OP" and _constant(other)) or (
                kind in ("AEXPR_IN", "AEXPR_OP_ANY") and side is left and _constants(other)
            ):
                found.add("equality")
                wanted.discard(id(column))
    return frozenset() if wanted else frozenset(found)


def _constant(node: Any) -> bool:
    while "TypeCast" in node:
        node = node["TypeCast"]["arg"]
    return "A_Const" in node or "ParamRef" in node


def _constants(node: Any) -> bool:
    if "List" in node:
        return all(_constant(item) for item in node["List"].get("items", ()))
    return _constant(node)


def demand_raw(link: Link) -> None:
    """A use further out needs the value itself: nothing on the way down masks it."""
    stack: list[Link] = [link]
    while stack:
        item = stack.pop()
        if isinstance(item, Output) and not item.raw:
            item.raw = True
            stack.extend(item.links)


# ---------------------------------------------------------------------- what is reported


def masked_columns(statement: Statement, governance: Governance) -> tuple[MaskedColumn, ...]:
    """Every masked column of every touched relation, and every output that carries one."""
    found: dict[tuple[str, MaskKind], MaskedColumn] = {}
    if not governance.masks:
        return ()
    for reference in statement.references:
        for column, kind in governance.rules(reference).masks.items():
            found[column, kind] = MaskedColumn(column, kind)
    if found and statement.top is not None:
        for output in statement.top.outputs:
            if output.open is None and (carried := output_kind(output, governance)) is not None:
                found[output.name, carried] = MaskedColumn(output.name, carried)
    return tuple(found.values())


def output_kind(output: Output, governance: Governance) -> MaskKind | None:
    """The mask on an output; what is not a bare column is `null`."""
    return governance.mask_of(output)


def output_kinds(statement: Statement, governance: Governance) -> dict[int, MaskKind]:
    """Index of each output of the statement's own result that carries a mask -> its kind."""
    if statement.top is None or not governance.masks:
        return {}
    return {
        i: kind
        for i, output in enumerate(statement.top.outputs)
        if (kind := output_kind(output, governance)) is not None
    }


# ---------------------------------------------------------------------- what is written into the SQL


def mask_outputs(
    statement: Statement, policy: CompiledPolicy, governance: Governance, targets: Targets
) -> tuple[int, ...]:
    """Decide for every target what stands in its place; the indexes of outputs to be hashed with the key in the process.

    Raises:
        Unmappable: a star cannot be written out.
    """
    if not governance.masks or not any(governance.rules(r).masks for r in statement.references):
        return ()
    keyed = _keyed(statement, policy, governance)
    _require(statement, governance)
    keyed_outputs = _leaf_outputs(statement.top, keyed)
    for query in statement.queries:
        if query.in_exists or query.kind in ("setop", "values"):
            continue
        stars: dict[int, list[Output]] = {}
        for output in query.outputs:
            if output.star and output.target is not None:
                stars.setdefault(id(output.target), []).append(output)
            else:
                _mask_target(output, policy, governance, targets, id(output) in keyed_outputs)
        for outputs in stars.values():
            _mask_star(outputs, policy, governance, targets, keyed_outputs)
    return tuple(sorted(keyed))


def _keyed(statement: Statement, policy: CompiledPolicy, governance: Governance) -> set[int]:
    if policy.profile.guarddb.hash_key_env is None or statement.top is None:
        return set()
    keyed = set()
    for i, output in enumerate(statement.top.outputs):
        if governance.mask_of(output) == "hash" and _attribute(output) not in _BYTEA and not output.opaque:
            keyed.add(i)
            demand_raw(output)
    return keyed


_BYTEA = ("pg_catalog.bytea",)


def _leaf_outputs(top: Query | None, keyed: set[int]) -> set[int]:
    """The target-list outputs behind the statement's keyed outputs."""
    if top is None or not keyed:
        return set()
    found: set[int] = set()
    for leaf in top.leaves():
        for index in keyed:
            if index < len(leaf.outputs):
                found.add(id(leaf.outputs[index]))
    return found


def _attribute(output: Output) -> str | None:
    found = attribute_of(output)
    return None if found is None else found.base_type


def attribute_of(link: Link) -> Attribute | None:
    """The attribute of the first base column a link goes back to, for its type."""
    for reference, name in sorted(origins(link), key=lambda o: (o[0].qualified_name, o[1])):
        if reference.relation is not None:
            for attribute in reference.relation.attributes:
                if attribute.name == name:
                    return attribute
    return None


def _require(statement: Statement, governance: Governance) -> None:
    """The kind each branch of a set operation, and each scalar subquery, has to deliver."""
    for query in statement.queries:
        for output in query.outputs:
            if output.opaque and output.target is not None and "SubLink" in output.target["val"]:
                kind = governance.mask_of(output)
                for inner in output.opaque:
                    if kind is not None and isinstance(inner, Output):
                        inner.required = "null"
        if query.branches is None:
            continue
        for i, output in enumerate(query.outputs):
            kind = strictest(governance.mask_of(output), _kind(output.required))
            if kind is None or output.raw:
                continue
            for branch in query.branches:
                if i < len(branch.outputs):
                    below = branch.outputs[i]
                    below.required = strictest(kind, _kind(below.required))


def _kind(value: str | None) -> MaskKind | None:
    if value is None:
        return None
    for kind in MASK_STRENGTH:
        if kind == value:
            return kind
    raise ValueError(value)


def _wanted(output: Output, governance: Governance, *, keyed: bool) -> MaskKind | None:
    """The mask to write at this output: None when what comes from below is masked as strictly already."""
    if output.raw and not keyed:
        return None
    kind = strictest(governance.mask_of(output), _kind(output.required))
    if kind is None:
        return None
    raw = False
    delivered: MaskKind | None = None
    for link in output.links:
        if isinstance(link, tuple) or link.raw:
            raw = raw or governance.mask_of(link) is not None
        else:
            delivered = strictest(delivered, strictest(governance.mask_of(link), _kind(link.required)))
    if not raw and delivered == kind:
        return None
    return kind


class Targets:
    """What stands in the place of each target of the statement, before it is written.

    `entries`: id of ResTarget fields -> (query, target, list of SQL entries or one expression, form of the edit).
    """

    def __init__(self, rewriter: Rewriter) -> None:
        self.rewriter = rewriter
        self.columns: dict[int, tuple[Query, Node, Output, str]] = {}
        self.stars: dict[int, tuple[Query, Node, list[str], list[str]]] = {}
        self.wraps: dict[int, tuple[Query, Node, Output, str]] = {}

    def write(self) -> None:
        """Make the edits."""
        for _, target, output, expression in self.columns.values():
            self.rewriter.replace_column(target, output.name, expression)
        for query, target, expressions, names in self.stars.values():
            self.rewriter.expand_star(
                query,
                target,
                [e if n == "" else f"{e} AS {quote(n)}" for e, n in zip(expressions, names, strict=True)],
            )
        for _, target, output, form in self.wraps.values():
            self.rewriter.wrap_target(target, output.name, form)


def _mask_target(
    output: Output, policy: CompiledPolicy, governance: Governance, targets: Targets, is_keyed: bool
) -> None:
    target = output.target
    if target is None or output.query is None:
        return
    node = target["val"]
    if output.opaque and "ColumnRef" in node:
        if governance.mask_of(output) is not None:
            targets.columns[id(target)] = (output.query, target, output, _null_row(output))
        return
    if output.opaque:
        return  # a scalar subquery: its own target list delivers NULL
    kind = _wanted(output, governance, keyed=is_keyed)
    if kind is None:
        return
    attribute = attribute_of(output)
    if "ColumnRef" in node:
        text = targets.rewriter.column_text(node["ColumnRef"])
        expression = mask_expression(kind, text, attribute, keyed=is_keyed, policy=policy)
        targets.columns[id(target)] = (output.query, target, output, expression)
        _keep_groups(output, text, targets.rewriter)
    else:
        form = mask_expression(kind, "({})", attribute, keyed=is_keyed, policy=policy)
        if form.count("{}") > 1:
            # The expression would run twice; only its being NULL is wanted of it the first time.
            form = form.replace("({}) IS NOT NULL", "true", 1) if kind == "null" else form
        targets.wraps[id(target)] = (output.query, target, output, form)


def _keep_groups(output: Output, text: str, rewriter: Rewriter) -> None:
    """GROUP BY 1 and GROUP BY alias mean the column itself, not the mask that now stands in its place."""
    query = output.query
    assert query is not None
    stack = list(query.fields.get("groupClause", ()))
    while stack:
        node = stack.pop()
        if "GroupingSet" in node:
            stack.extend(node["GroupingSet"].get("content", ()))
            continue
        constant, column = node.get("A_Const"), node.get("ColumnRef")
        position = constant.get("ival", {}).get("ival", 0) if constant is not None else 0
        by_position = 0 < position <= len(query.outputs) and query.outputs[position - 1] is output
        by_alias = (
            column is not None
            and "name" in (output.target or {})
            and [f.get("String", {}).get("sval") for f in column["fields"]] == [output.name]
        )
        if by_position or by_alias:
            assert output.target is not None
            rewriter.replace_node(node, text, output.target["val"])


def _mask_star(
    outputs: list[Output], policy: CompiledPolicy, governance: Governance, targets: Targets, keyed: set[int]
) -> None:
    wanted = [None if o.open is not None else _wanted(o, governance, keyed=id(o) in keyed) for o in outputs]
    if any(o.open is not None and governance.mask_of(o) is not None for o in outputs):
        raise Unmappable
    if not any(wanted):
        return
    target, query = outputs[0].target, outputs[0].query
    assert target is not None
    assert query is not None
    expressions, names = [], []
    for output, kind in zip(outputs, wanted, strict=True):
        prefix = f"{quote(output.qualifier)}." if output.qualifier is not None else ""
        if output.open is not None:
            expressions.append(f"{prefix}*")
            names.append("")
            continue
        column = f"{prefix}{quote(output.name)}"
        if kind is None:
            expressions.append(column)
            names.append("")
        else:
            is_keyed = id(output) in keyed
            expressions.append(
                mask_expression(kind, column, attribute_of(output), keyed=is_keyed, policy=policy)
            )
            names.append(output.name)
    targets.stars[id(target)] = (query, target, expressions, names)


def _null_row(output: Output) -> str:
    relations = {link[0] for link in output.opaque if isinstance(link, tuple)}
    if len(relations) == 1 and (relation := relations.pop().relation) is not None:
        return f"NULL::{quote(relation.schema)}.{quote(relation.name)}"
    return "NULL"


def mask_expression(
    kind: MaskKind,
    column: str,
    attribute: Attribute | None,
    *,
    keyed: bool = False,
    policy: CompiledPolicy | None = None,
) -> str:
    """The SQL that stands in a masked column's place.

    >>> mask_expression("null", "u.ssn", None)
    'NULL::pg_catalog.text'
    """
    base = "pg_catalog.text" if attribute is None else attribute.base_type
    schema, _, name = base.rpartition(".")
    sql_type = f"{quote(schema)}.{quote(name)}" if attribute is not None else base
    if kind == "redact" and (attribute is None or attribute.category == _CHARACTER):
        return f"CASE WHEN {column} IS NOT NULL THEN '{REDACTED}'::{sql_type} END"
    if kind == "hash" and base != "pg_catalog.bytea":
        if keyed:
            return as_printed(column, base)
        if policy is not None and policy.profile.guarddb.hash_key_env is not None:
            return "NULL::pg_catalog.text"
        text = as_printed(column, base)
        return f"pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to({text}, 'UTF8')), 'hex')"
    return f"NULL::{sql_type}"


def as_printed(column: str, base_type: str) -> str:
    """A value as the text that PostgreSQL prints for it; NULL stays NULL."""
    if base_type in _CAST_DIFFERS:
        return f"CASE WHEN {column} IS NOT NULL THEN pg_catalog.format('%s', {column}) END"
    return f"({column})::pg_catalog.text"


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
