"""Row-filter predicates bound to a relation: settings put in as constants, every column tied to the filtered row."""

from __future__ import annotations

from collections.abc import Mapping

from pglast import parser

from guarddb.facts import functions
from guarddb.policy.patterns import RelationPattern, fold
from guarddb.policy.predicate import Predicate
from guarddb.sql.analysis.scope import Scope, Table, Unknown
from guarddb.sql.analysis.writes import Analysis
from guarddb.sql.catalog import Catalog, Relation
from guarddb.sql.leakproof.parts import conjuncts
from guarddb.sql.names import literal, quote, string_list
from guarddb.sql.rewriting.edits import TextEdits
from guarddb.sql.statement import Query, Reference, Statement
from guarddb.tree import Node, nodes


class BoundPredicate:
    """A predicate ready to be written into a statement.

    Attributes:
        source: the predicate as the profile has it; `pattern` the table entry of its rule.
        shown: its text with the settings put in, for the decision.
        columns: the attributes of the filtered row that it reads.
        inner_names: aliases and relations inside its sub-selects; one of them would capture a qualified name.
        missing: a setting that it reads and nobody gave, or None.
        bound: every column reference of the filtered row is known, so that it can be qualified by any alias.
        cheap: each part of it is one comparison with a constant, which no other condition can come before.
    """

    __slots__ = (
        "_parts",
        "_pieces",
        "bound",
        "cheap",
        "columns",
        "has_sublink",
        "inner_names",
        "missing",
        "own_name",
        "pattern",
        "shown",
        "source",
    )

    def __init__(self, source: Predicate, pattern: RelationPattern) -> None:
        self.source = source
        self.pattern = pattern
        self.has_sublink = source.has_sublink
        self.missing: str | None = None
        self.bound = True
        self.columns: set[str] = set()
        self.inner_names: set[str] = set()
        self._pieces: list[str | tuple[str]] = []
        self._parts: list[list[str | tuple[str]]] = []
        self.cheap = False
        self.shown = source.text
        name = pattern.name
        self.own_name = "guarded" if name is None else name.text if name.exact else fold(name.text)

    def text(self, qualifier: str, names: Mapping[str, str] | None = None) -> str:
        """The predicate over the row that `qualifier` (an alias, not yet quoted) names. `names`: attribute -> name seen."""
        return _written(self._pieces, qualifier, names)

    def over(self, values: Mapping[str, str]) -> str:
        """The predicate over a row that is given by the text of each column's value."""
        return "".join(piece if isinstance(piece, str) else values[piece[0]] for piece in self._pieces)

    def first(self, qualifier: str, names: Mapping[str, str] | None = None) -> str:
        """The predicate in a form that the planner asks before every other condition that does something.

        Conditions at one scan run in the order of their cost, equal ones as they stand (order_qual_clauses); but an
        equality with a constant goes to an equivalence class, and comes back as the last. So a `cheap` predicate stands here
        once more, as something that costs the same, is no equality, and which the planner believes to be nearly always true.
        """
        return " AND ".join(
            f"(CASE WHEN {_written(part, qualifier, names)} THEN true END) IS NOT NULL"
            for part in self._parts
        )


def _written(pieces: list[str | tuple[str]], qualifier: str, names: Mapping[str, str] | None) -> str:
    prefix = quote(qualifier)
    return "".join(
        piece
        if isinstance(piece, str)
        else f"{prefix}.{quote(names.get(piece[0], piece[0]) if names else piece[0])}"
        for piece in pieces
    )


def bind(
    predicate: Predicate,
    pattern: RelationPattern,
    relation: Relation | None,
    schema: str,
    name: str,
    catalog: Catalog | None,
    settings: Mapping[str, str],
) -> BoundPredicate:
    """Tie a predicate to the relation it filters.

    Relation names inside its sub-selects get their schema (a bare one means `public`), so that neither a temporary table nor
    a CTE of the agent's can stand in for them. Settings become constants: the planner can use them, and no trick with the
    session's settings can change them.
    """
    bound = BoundPredicate(predicate, pattern)
    text = predicate.text
    edits: list[tuple[int, int, str | tuple[str]]] = []
    shown: list[tuple[int, int, str]] = []
    data = text.encode()
    tokens = [t for t in parser.scan(text) if t.name not in ("SQL_COMMENT", "C_COMMENT")]
    # The scanner counts characters, the tree bytes.
    offsets = (
        [len(text[: t.start].encode()) for t in tokens] if not text.isascii() else [t.start for t in tokens]
    )
    ends = (
        [len(text[: t.end + 1].encode()) for t in tokens]
        if not text.isascii()
        else [t.end + 1 for t in tokens]
    )
    at = {offset: i for i, offset in enumerate(offsets)}

    for kind, node in nodes(predicate.tree):
        if kind == "FuncCall" and string_list(node.get("funcname", ()))[-1:] == ["current_setting"]:
            first = at[node["location"]]
            last = _closing(tokens, first)
            setting = node["args"][0]["A_Const"]["sval"]["sval"].lower()
            if setting not in settings:
                bound.missing = bound.missing or setting
                continue
            constant = f"{literal(settings[setting])}::pg_catalog.text"
            edits.append((offsets[first], ends[last], constant))
            shown.append((offsets[first], ends[last], literal(settings[setting])))
        elif "relname" in node and "schemaname" not in node and not _is_cte(node["relname"], predicate.tree):
            start = offsets[at[node["location"]]]
            edits.append((start, start, f"{quote(_schema_of(node['relname']))}."))

    for column, attribute in _columns(bound, predicate, relation, schema, name, catalog):
        first = at[column.get("location", 0)]
        last = first
        while last + 2 < len(tokens) and tokens[last + 1].name == "ASCII_46":
            last += 2
        edits.append((offsets[first], ends[last], (attribute,)))
        bound.columns.add(attribute)

    parts = conjuncts(predicate.tree)
    ranges = TextEdits(text).top_level_parts()
    if len(ranges) == len(parts):
        spans = [(offsets[first], ends[last]) for first, last in ranges]
        bound._parts = [_pieces(data, edits, start, end) for start, end in spans]
        bound.cheap = all(_is_cheap(part) for part in parts)
    else:
        spans, parts = [(0, len(data))], [predicate.tree]
    for part, (start, end) in zip(parts, spans, strict=True):
        if _may_become_join(part):
            # As below native row security: a sub-select stays one, asked at the scan, and is not made a join.
            edits += [(start, start, "("), (end, end, ") IS TRUE")]
    bound._pieces = _pieces(data, edits, 0, len(data))
    position, told = 0, []
    for start, end, replacement in sorted(shown):
        told += [data[position:start].decode(), replacement]
        position = end
    bound.shown = "".join([*told, data[position:].decode()])
    return bound


def _pieces(
    data: bytes, edits: list[tuple[int, int, str | tuple[str]]], start: int, end: int
) -> list[str | tuple[str]]:
    """The text between two byte offsets with the edits in it made."""
    pieces: list[str | tuple[str]] = []
    position = start
    for first, last, piece in sorted(edits, key=lambda e: (e[0], e[1])):
        if start <= first and last <= end:
            pieces += [data[position:first].decode(), piece]
            position = last
    pieces.append(data[position:end].decode())
    return pieces


def _may_become_join(part: Node) -> bool:
    """A part that the planner would take into the join tree: EXISTS and IN, and their negations."""
    negated = part.get("BoolExpr", {})
    if negated.get("boolop") == "NOT_EXPR":
        part = negated["args"][0]
    return part.get("SubLink", {}).get("subLinkType", "EXISTS_SUBLINK") in (
        "EXISTS_SUBLINK",
        "ANY_SUBLINK",
    ) and ("SubLink" in part)


_COMPARISONS = frozenset(("=", "<>", "!=", "<", ">", "<=", ">="))
#: Types whose text the planner reads when it plans.
_READ_EARLY = frozenset(("int2", "int4", "int8", "bool", "text", "varchar", "numeric", "uuid"))


def _is_cheap(part: Node) -> bool:
    """A column, or one comparison of a column with what is a constant once the statement is planned."""
    negated = part.get("BoolExpr", {})
    if negated.get("boolop") == "NOT_EXPR":
        part = negated["args"][0]
    for test in ("NullTest", "BooleanTest"):
        part = part[test]["arg"] if test in part else part
    if "ColumnRef" in part:
        return True
    fields = part.get("A_Expr")
    if fields is None or string_list(fields.get("name", ()))[-1:] not in [[name] for name in _COMPARISONS]:
        return False
    left, right = fields.get("lexpr", {}), fields.get("rexpr", {})
    kind = fields.get("kind", "AEXPR_OP")
    if kind == "AEXPR_IN":
        items = right.get("List", {}).get("items", ())
        return "ColumnRef" in left and len(items) <= 2 and all(_is_constant(item) for item in items)
    return kind == "AEXPR_OP" and (
        ("ColumnRef" in left and _is_constant(right)) or ("ColumnRef" in right and _is_constant(left))
    )


def _is_constant(node: Node) -> bool:
    while "TypeCast" in node:
        if string_list(node["TypeCast"]["typeName"].get("names", ()))[-1:] not in [[t] for t in _READ_EARLY]:
            return "A_Const" in node["TypeCast"]["arg"]
        node = node["TypeCast"]["arg"]
    call = node.get("FuncCall", {})
    return "A_Const" in node or string_list(call.get("funcname", ()))[-1:] == ["current_setting"]


def _closing(tokens: list[parser.Token], first: int) -> int:
    depth = 0
    for position in range(first, len(tokens)):
        if tokens[position].name == "ASCII_40":
            depth += 1
        elif tokens[position].name == "ASCII_41":
            depth -= 1
            if depth == 0:
                return position
    raise ValueError("unbalanced parentheses")


def _schema_of(name: str) -> str:
    """The schema of a bare relation name in a policy: `public`, but for the system's own relations."""
    system = functions.system_relation(None, name)
    return "public" if system is None else system.schema


def _is_cte(name: str, tree: Node) -> bool:
    return any(kind == "CommonTableExpr" and node.get("ctename") == name for kind, node in nodes(tree))


def _columns(
    bound: BoundPredicate,
    predicate: Predicate,
    relation: Relation | None,
    schema: str,
    name: str,
    catalog: Catalog | None,
) -> list[tuple[Node, str]]:
    """Every (ColumnRef fields, attribute) of the predicate that means the filtered row."""
    if relation is None and predicate.has_sublink:
        # Without the columns nobody can say which names inside a sub-select mean the outer row.
        bound.bound = False
        return []
    statement = Statement("SelectStmt", {}, {})
    analysis = Analysis(statement, catalog.for_definitions() if catalog is not None else None)
    query = Query("select", {}, None)
    node: Node = {"relname": name, "schemaname": schema, "inh": True, "alias": {"aliasname": bound.own_name}}
    reference = Reference(schema, name, relation, node, "read", query, bound.own_name)
    source = analysis.source(reference)
    scope = Scope(None, query)
    scope.items = [source]
    assert isinstance(source, Table | Unknown)
    tree = _qualified_relations(predicate.tree)
    analysis.expression(tree, scope, query, "where")
    found: list[tuple[Node, str]] = []
    for root in statement.roots:
        for link, column in root.uses:
            if column is not None and isinstance(link, tuple) and link[0] is reference:
                found.append((column, link[1]))
    for each in statement.references:
        bound.inner_names.add(each.alias)
    for inner in statement.queries:
        for output in inner.outputs:
            # A bare output of a sub-select that copies the outer row's column.
            for link in output.links:
                if isinstance(link, tuple) and link[0] is reference:
                    if output.target is None or "ColumnRef" not in output.target["val"] or output.star:
                        bound.bound = False
                    else:
                        found.append((output.target["val"]["ColumnRef"], link[1]))
    for kind, fields in nodes(predicate.tree):
        if kind == "alias" and "aliasname" in fields:
            bound.inner_names.add(fields["aliasname"])
        elif kind == "CommonTableExpr":
            bound.inner_names.add(fields["ctename"])
    if any(attribute == "*" for _, attribute in found):
        bound.bound = False
    unique: dict[int, tuple[Node, str]] = {id(column): (column, attribute) for column, attribute in found}
    return list(unique.values())


def _qualified_relations(tree: Node) -> Node:
    """The predicate's tree with bare relation names in `public`; locations and ColumnRef dicts are the originals'."""

    # parse() once more would lose the identity that `_columns` reports by; the schema is only added for the look-up.
    def copy(value: object) -> object:
        if isinstance(value, dict):
            if "fields" in value and "location" in value:
                return value
            made = {k: copy(v) for k, v in value.items()}
            if "relname" in made and "schemaname" not in made and not _is_cte(str(made["relname"]), tree):
                made["schemaname"] = _schema_of(str(made["relname"]))
            return made
        if isinstance(value, list):
            return [copy(v) for v in value]
        return value

    copied = copy(tree)
    assert isinstance(copied, dict)
    return copied
