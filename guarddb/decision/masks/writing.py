"""Masks written into the SQL, each at the lowest target list above which nothing needs the raw value.

So the raw value does not flow on inside the statement, and what a rule might overlook further out sees the mask.
"""

from __future__ import annotations

from guarddb.decision.case import Case
from guarddb.decision.masks.refused import RefusedByServer, is_grouping_sets
from guarddb.decision.masks.rule import is_missing_side, witness
from guarddb.sql.catalog import Attribute
from guarddb.sql.names import holds_sublink, quote, quote_qualified, string_list
from guarddb.sql.rewriting.rewriter import Rewriter
from guarddb.sql.statement import Link, Output, Query, Reference, origins
from guarddb.tree import Node
from guarddb.vocabulary import MaskKind, strictest

REDACTED = "[redacted]"
#: The length of the varchar in which a value leaves the server that the process has to hash. Nothing else has
#: this length (the most that PostgreSQL allows is one more), so that the result itself says what it holds: a driver that
#: took it for another statement's would not show it raw.
TO_BE_HASHED = 10_485_759
_CHARACTER = "S"
#: Stands for the column in a form that is not yet filled; no SQL text can hold it.
_COLUMN = "\0"
_BYTEA = "pg_catalog.bytea"
#: Types whose cast to text is not what PostgreSQL prints: true/t, padded char(n), 1.2.3.4/32.
_CAST_DIFFERS = frozenset(("pg_catalog.bool", "pg_catalog.bpchar", "pg_catalog.inet", "pg_catalog.cidr"))


class Unmappable(Exception):
    """A star over a masked relation whose columns nobody knows: the text to send cannot be written without a catalog."""


class Unwritable(Exception):
    """The mask finds no place in this statement. `args`: why, and what to write instead."""


class Targets:
    """What stands in the place of each target of the statement, before it is written; by id of the ResTarget's fields.

    `columns`: a bare column becomes an expression. `stars`: a star becomes a list of (expression, label or "").
    `wraps`: an expression becomes a form with `{}` where it stood.

    And what of the statement's columns is needed for that: `gone` are the outputs, and counted rows, by id, in whose place
    nothing of their column stands; `needed` are columns that stand there instead; `raw` flow on as they are. `hashed` are the
    columns that stand inside a hash, with the places where: who puts a subquery in the relation's place can hash them there.
    """

    def __init__(self, rewriter: Rewriter) -> None:
        self.rewriter = rewriter
        self.columns: dict[int, tuple[Query, Node, Output, str]] = {}
        self.stars: dict[int, tuple[Query, Node, list[str], list[str]]] = {}
        self.wraps: dict[int, tuple[Query, Node, Output, str]] = {}
        self.gone: set[int] = set()
        self.needed: set[tuple[Reference, str]] = set()
        self.raw: set[tuple[Reference, str]] = set()
        #: (id of the target, place in its star, the column as it is written there)
        self.hashed: dict[tuple[Reference, str], list[tuple[int, int | None, str]]] = {}

    def hash_below(self, reference: Reference, name: str) -> None:
        """The column comes hashed from below: where its hash was to be made it stands as it is."""
        for target, place, column in self.hashed.pop((reference, name)):
            if place is None:
                self.columns.pop(target, None)
                self.wraps.pop(target, None)
            else:
                self.stars[target][2][place], self.stars[target][3][place] = column, ""

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


class MaskWriter:
    """Decides for every target of one statement what stands in its place."""

    def __init__(self, case: Case, targets: Targets) -> None:
        self.statement = case.statement
        self.governance = case.governance
        self.marks = case.marks
        self.masked = any(rules.masks for _, rules in case.ruled)
        self.targets = targets
        self.has_key = case.policy.profile.guarddb.hash_key_env is not None
        self.redacts_nulls = case.policy.profile.guarddb.redact_nulls
        #: of a branch's output, by id: an attribute of the type that the set operation has there
        self.types: dict[int, Attribute | None] = {}
        #: outputs, by id, that leave the server as text to be hashed with the key
        self.keyed: set[int] = set()
        #: outputs, by id, that are not masked and would be hashed with the key because they share an output further out with
        #: one that is: a guess, perhaps
        self.guesses: set[int] = set()
        #: outputs, by id, whose type PostgreSQL may not match with that of another branch -> both, and what is known of its own
        self.matched: dict[int, tuple[Attribute | None, Attribute]] = {}
        self.is_refused = RefusedByServer(case.statement)

    def write(self) -> tuple[int, ...]:
        """Fill the targets; the indexes of the statement's outputs to be hashed with the key in the process.

        Raises:
            Unmappable: a star cannot be written out.
        """
        if not self.masked:
            return ()
        keyed = self._keyed()
        self._require()
        self._counts()
        for query in self.statement.queries:
            if query.branches is not None or query.kind == "values":
                continue
            stars: dict[int, list[Output]] = {}
            for output in query.outputs:
                if output.star and output.target is not None:
                    stars.setdefault(id(output.target), []).append(output)
                else:
                    self._target(output)
            for outputs in stars.values():
                self._star(outputs)
        return keyed

    def _mask(self, link: Link) -> MaskKind | None:
        return self.governance.mask_of(link, self.marks)

    def _keyed(self) -> tuple[int, ...]:
        top = self.statement.top
        if not self.has_key or top is None:
            return ()
        keyed = []
        for i, output in enumerate(top.outputs):
            attribute = attribute_of(output) if self._mask(output) == "hash" else None
            if self._mask(output) != "hash" or output.opaque:
                continue
            if attribute is not None and attribute.base_type == _BYTEA:
                continue
            keyed.append(i)
            self.marks.demand_raw(output)
            self._find_guesses(output)
            for leaf in top.leaves():
                if i < len(leaf.outputs):
                    self.keyed.add(id(leaf.outputs[i]))
        return tuple(keyed)

    def _find_guesses(self, output: Output) -> None:
        """Every branch of a set operation on the way down that does not lead to a masked column."""
        places = {
            id(each): (query, i)
            for query in self.statement.queries
            if query.branches is not None
            for i, each in enumerate(query.outputs)
        }
        seen: set[int] = set()
        stack: list[Link] = [output]
        while stack:
            link = stack.pop()
            if isinstance(link, tuple) or id(link) in seen:
                continue
            seen.add(id(link))
            stack.extend(link.links)
            if id(link) not in places:
                continue
            query, i = places[id(link)]
            for leaf in query.leaves():
                if leaf.kind == "values":
                    raise Unwritable(
                        "a column masked by a keyed hash shares an output with VALUES, which could hold guesses",
                        "Write SELECT in place of VALUES in that branch.",
                    )
                if i < len(leaf.outputs) and self._mask(leaf.outputs[i]) is None:
                    self.guesses.add(id(leaf.outputs[i]))

    def _require(self) -> None:
        """The kind each branch of a set operation, and each scalar subquery, has to deliver."""
        for query in self.statement.queries:
            for output in query.outputs:
                if output.opaque and output.target is not None and "SubLink" in output.target["val"]:
                    required = "null" if self._mask(output) is not None else self.marks.required_of(output)
                    for inner in output.opaque:
                        if isinstance(inner, Output) and required is not None:
                            self.marks.require(inner, required)
                            self.types.setdefault(id(inner), self.types.get(id(output)))
            if query.branches is None:
                continue
            self._match_types(query)
            for i, output in enumerate(query.outputs):
                kind = strictest(self._mask(output), self.marks.required_of(output))
                if kind is None or self.marks.is_raw(output):
                    continue
                for branch in query.branches:
                    # A branch without the masked column stays as it is: NULL and a token are of its own type. Not so a hash,
                    # which is a text, and by which a guess in the other branch could be told.
                    if i < len(branch.outputs) and (
                        kind == "hash" or self._mask(branch.outputs[i]) is not None
                    ):
                        self.marks.require(branch.outputs[i], kind)
                        self.types[id(branch.outputs[i])] = self.types.get(id(output)) or attribute_of(output)

    def _match_types(self, query: Query) -> None:
        """Find the branches beside a hash that may be of another type: as texts they would be matched, and by themselves not."""
        for i, output in enumerate(query.outputs):
            if self._mask(output) != "hash" or self.marks.is_raw(output):
                continue
            branches = [leaf.outputs[i] for leaf in query.leaves() if i < len(leaf.outputs)]
            types = [None if branch.root is not None else attribute_of(branch) for branch in branches]
            first = next((t for t, b in zip(types, branches, strict=True) if t and self._mask(b)), None)
            for branch, type_ in zip(branches, types, strict=True):
                if first is not None and (type_ is None or type_.base_type != first.base_type):
                    self.matched[id(branch)] = (type_, first)

    def _is_matched(self, output: Output) -> bool:
        return id(output) in self.matched and self._mask(output) is not None

    def _matching(self, output: Output, text: str) -> str:
        """A hash, or what is to be hashed, as PostgreSQL takes it beside the other branches (42804 where it does not)."""
        own, other = self.matched.get(id(output), (None, None))
        if own is None or other is None:
            return text
        pair = f"COALESCE(NULL::{_type_text(own)}, NULL::{_type_text(other)})"
        return f"CASE WHEN false THEN ({pair})::pg_catalog.text ELSE {text} END"

    def _wanted(self, output: Output) -> MaskKind | None:
        """The mask to write at this output: None when what comes from below is masked as strictly already."""
        if id(output) in self.guesses and id(output) not in self.keyed:
            return "null"
        if id(output) in self.keyed:
            return "hash"  # every branch of a set operation, for the mark on the type must be on all of them
        marks = self.marks
        if id(output) in marks.raw:
            self.targets.raw.update(link for link in output.links if isinstance(link, tuple))
            return None
        kind = strictest(self._mask(output), marks.required.get(id(output)))
        if kind is None:
            return None
        raw = False
        delivered: MaskKind | None = None
        for link in output.links:
            if isinstance(link, tuple) or marks.is_raw(link):
                raw = raw or self._mask(link) is not None
            else:
                delivered = strictest(delivered, strictest(self._mask(link), marks.required_of(link)))
        return None if not raw and delivered == kind else kind

    def _target(self, output: Output) -> None:
        target, query = output.target, output.query
        if target is None or query is None:
            return
        node = target["val"]
        if output.opaque:
            # A whole row. (A scalar subquery needs nothing here: its own target list delivers NULL.)
            if "ColumnRef" in node and self._mask(output) is not None:
                self._require_spelled(output)
                null = _null_row(output)
                if self.is_refused(output):
                    text = self.targets.rewriter.column_text(node["ColumnRef"])
                    null = _beside(text, null)
                else:
                    self.targets.gone.add(id(output))
                self.targets.columns[id(target)] = (query, target, output, null)
            return
        kind = self._wanted(output)
        if kind is None:
            if self._is_matched(output):
                # (What comes from below is hashed already.)
                self.targets.wraps[id(target)] = (query, target, output, self._matching(output, "({})"))
            return
        attribute = attribute_of(output) or self.types.get(id(output))
        if "ColumnRef" in node:
            self._require_spelled(output)
            text = self.targets.rewriter.column_text(node["ColumnRef"])
            self._note_hash(kind, attribute, output, (id(target), None, text))
            prefix = ".".join(quote(part) for part in string_list(node["ColumnRef"]["fields"])[:-1])
            column = self._of_unknown_type(output, text) or text
            self.targets.columns[id(target)] = (
                query,
                target,
                output,
                self._in_place(kind, column, attribute, output, prefix),
            )
            self._keep_places(output, query, text)
        else:
            form = self._expression(kind, self._of_unknown_type(output, "{}") or "({})", attribute, output)
            if form.startswith("NULL") and attribute is None:
                form = "CASE WHEN false THEN ({}) END"  # NULL of the expression's own type
            elif "{}" not in form:
                form = f"CASE WHEN true OR ({{}}) IS NULL THEN {form} END"
            if "A_Const" not in node and not holds_sublink(node):
                # (The text of a sub-select is not to be copied: its tables would stand there without their filters.)
                self._keep_places(output, query, self.targets.rewriter.target_text(target)[2])
            self.targets.wraps[id(target)] = (query, target, output, form)

    def _of_unknown_type(self, output: Output, text: str) -> str | None:
        """An expression beside a hash as PostgreSQL would match it with the first branch; None: nothing to be matched here."""
        own, first = self.matched.get(id(output), (None, None))
        if own is not None or first is None:
            return None
        return f"(CASE WHEN false THEN NULL::{_type_text(first)} ELSE ({text}) END)"

    @staticmethod
    def _require_spelled(output: Output) -> None:
        """A name that PostgreSQL finds ambiguous is not to be replaced: it would not see it any more."""
        if not output.spelled:
            raise Unwritable(
                f'the column reference "{output.name}" is ambiguous',
                "Write the name of the table before it.",
            )

    def _note_hash(
        self, kind: MaskKind, attribute: Attribute | None, output: Output, place: tuple[int, int | None, str]
    ) -> None:
        """Write down that a bare column is to be hashed here by the server, and not by the process."""
        if kind != "hash" or self.has_key or self.statement.analyzes or id(output) in self.matched:
            return
        if attribute is None or attribute.base_type == _BYTEA:
            return
        if len(output.links) == 1 and isinstance(link := output.links[0], tuple):
            self.targets.hashed.setdefault(link, []).append(place)

    def _in_place(
        self, kind: MaskKind, column: str, attribute: Attribute | None, output: Output, prefix: str
    ) -> str:
        """The expression in the place of a bare column; where nothing of the column is in it, that is written down."""
        form = self._expression(kind, _COLUMN, attribute, output, prefix)
        if _COLUMN not in form:
            if self.is_refused(output):
                # PostgreSQL says so itself, where it finds the name.
                return _beside(column, form)
            self.targets.gone.add(id(output))
        return form.replace(_COLUMN, column)

    def _expression(
        self,
        kind: MaskKind,
        column: str,
        attribute: Attribute | None,
        output: Output,
        prefix: str | None = None,
    ) -> str:
        """What stands in a column's place. `prefix`: of a bare column, what stands before its name (an alias, or nothing)."""
        if self.statement.analyzes:
            # Nothing of the column: how much memory it takes in a sort would tell how long its values are. No row is shown.
            if kind == "hash" and (attribute is None or attribute.base_type != _BYTEA):
                return "NULL::pg_catalog.text"
            return mask_expression(kind, column, attribute, present=None)
        if id(output) in self.guesses and id(output) not in self.keyed:
            return f"CASE WHEN false THEN {column} END"  # NULL of its own type
        if id(output) in self.keyed:
            # The key never enters the SQL.
            if self._mask(output) is None:
                # Of another branch of a set operation. Hashed, it would tell what the hash of a guess is. (A CASE does
                # not hand on the length of a varchar, so the cast is around it.)
                printed = f"CASE WHEN false THEN ({column})::pg_catalog.text END"
            else:
                printed = as_printed(
                    column, attribute.base_type if attribute is not None else "pg_catalog.text"
                )
            return f"({self._matching(output, printed)})::pg_catalog.varchar({TO_BE_HASHED})"
        if kind == "hash" and self.has_key and (attribute is None or attribute.base_type != _BYTEA):
            return "NULL::pg_catalog.text"  # what is not hashed in the process
        present: str | None = column
        if self.redacts_nulls:
            present = None
        elif attribute is not None and attribute.not_null and prefix is not None and len(output.links) == 1:
            present = self._presence(output, prefix, column)
        written = mask_expression(kind, column, attribute, present=present)
        return self._matching(output, written) if kind == "hash" else written

    def _presence(self, output: Output, prefix: str, column: str) -> str | None:
        """For a column that is never NULL, what tells whether there is a row at all; None where there always is.

        So the text depends on the masked column in no way at all.
        """
        link, query = output.links[0], output.query
        if not isinstance(link, tuple) or query is None or is_grouping_sets(query):
            return column
        reference = link[0]
        # OLD and NEW of RETURNING have no row where none was, or where none is any more; MERGE is a join.
        returning = query.kind != "select" and (
            query.kind == "merge" or prefix not in ("", quote(reference.alias))
        )
        if not returning and not is_missing_side(reference):
            return None
        found = witness(reference, self.governance)
        if found is None:
            return column
        self._need(reference, found)
        return f"{prefix or quote(reference.alias)}.{found}"

    def _need(self, reference: Reference, witness: str) -> None:
        relation = reference.relation
        for attribute in relation.attributes if relation is not None else ():
            if quote(attribute.name) == witness:
                self.targets.needed.add((reference, attribute.name))

    def _counts(self) -> None:
        """count(t) of a relation with masks: of something that is there when the row is."""
        for node, reference, form in self.statement.row_counts:
            if self.governance.rules(reference).masks:
                found = witness(reference, self.governance) if is_missing_side(reference) else None
                if found is not None:
                    self._need(reference, found)
                counted = "1" if found is None else f"{quote(reference.alias)}.{found}"
                self.targets.gone.add(id(node))
                self.targets.rewriter.replace_node(node, form.format(counted))

    def _keep_places(self, output: Output, query: Query, text: str) -> None:
        """GROUP BY 1, ORDER BY alias … mean the column itself, not the mask that now stands in its place."""
        if "." not in text and output.links and isinstance(output.links[0], tuple):
            # Unqualified, ORDER BY would take it for the output of that name again.
            text = f"{quote(output.links[0][0].alias)}.{text}"
        ambiguous = "." not in text and any(o is not output and o.name == text for o in query.outputs)
        for root in self.statement.roots:
            if root.query is not query or not isinstance(root.node, dict):
                continue
            if root.clause != "group" and (ambiguous or root.clause not in ("order", "distinct")):
                continue  # ambiguous: the name would mean the other output that has it
            if any(link is output for link, _ in root.uses):
                self.targets.rewriter.replace_node(root.node, text)
                self.targets.gone.discard(id(output))

    def _star(self, outputs: list[Output]) -> None:
        """Write a star out where one of its columns is masked: column by column, or `alias.*` for an item without any."""
        wanted = [None if o.open is not None else self._wanted(o) for o in outputs]
        if any(o.open is not None and self._mask(o) is not None for o in outputs):
            raise Unmappable("the columns behind * are not known")
        if not any(wanted) and not any(self._is_matched(o) for o in outputs):
            return
        target, query = outputs[0].target, outputs[0].query
        assert target is not None
        assert query is not None
        if query.in_exists and all(o.spelled and not self.is_refused(o) for o in outputs):
            # Whether there is a row is all that is asked.
            self.targets.stars[id(target)] = (query, target, ["NULL"], [""])
            self.targets.gone.update(map(id, outputs))
            return
        masked = {
            o.qualifier
            for o, kind in zip(outputs, wanted, strict=True)
            if kind is not None or self._is_matched(o)
        }
        expressions, names = [], []
        written: set[str | None] = set()
        seen: set[tuple[str | None, str]] = set()
        for output, kind in zip(outputs, wanted, strict=True):
            qualifier = output.qualifier
            if output.root is not None:
                raise Unmappable("the fields of a row cannot be taken apart")
            if output.whole_item and qualifier is not None and qualifier not in masked:
                if qualifier not in written:
                    written.add(qualifier)
                    expressions.append(f"{quote(qualifier)}.*")
                    names.append("")
                continue
            if output.open is not None or not output.spelled:
                raise Unmappable("which columns stand behind * is not known for certain")
            if (qualifier, output.name) in seen:
                raise Unmappable("two columns behind * have the same name")
            seen.add((qualifier, output.name))
            prefix = quote(qualifier) if qualifier is not None else ""
            column = f"{prefix}.{quote(output.name)}" if prefix else quote(output.name)
            if kind is not None:
                self._note_hash(kind, attribute_of(output), output, (id(target), len(expressions), column))
                column = self._in_place(kind, column, attribute_of(output), output, prefix)
            elif self._is_matched(output):
                column = self._matching(output, column)
            expressions.append(column)
            names.append("" if kind is None and not self._is_matched(output) else output.name)
        self.targets.stars[id(target)] = (query, target, expressions, names)


def attribute_of(link: Link) -> Attribute | None:
    """The attribute of the first base column a link goes back to, for its type."""
    for reference, name in sorted(origins(link), key=lambda o: (o[0].qualified_name, o[1])):
        if reference.relation is not None:
            for attribute in reference.relation.attributes:
                if attribute.name == name:
                    return attribute
    return None


def _null_row(output: Output) -> str:
    """NULL of a row's type: a table's own, `record` for a subquery's or a join's."""
    rows = [link for link in output.opaque if isinstance(link, tuple) and link[1] == "*"]
    if any(link[0].relation is None for link in rows):
        return "NULL"  # without a catalog
    if len(rows) == len(output.opaque) == 1 and (relation := rows[0][0].relation) is not None:
        return f"NULL::{quote_qualified(relation.schema, relation.name)}"
    return "NULL::pg_catalog.record"


def _beside(column: str, form: str) -> str:
    """A mask of its own type, and the column where PostgreSQL sees it and never looks."""
    return f"CASE WHEN false AND ({column}) IS NULL THEN NULL ELSE {form} END"


def _type_text(attribute: Attribute) -> str:
    schema, _, name = attribute.base_type.partition(".")
    return f"{quote(schema)}.{quote(name)}"


def mask_expression(
    kind: MaskKind, column: str, attribute: Attribute | None, *, present: str | None = ""
) -> str:
    """The SQL that stands in a masked column's place.

    `present`: under `redact`, what is NULL where the mask is to be NULL: the column when it is left out, None for nothing.

    >>> mask_expression("null", "u.ssn", None)
    'NULL::pg_catalog.text'
    >>> mask_expression("redact", "u.ssn", None)
    "CASE WHEN u.ssn IS NOT NULL THEN '[redacted]'::pg_catalog.text END"
    >>> mask_expression("redact", "u.ssn", None, present=None)
    "'[redacted]'::pg_catalog.text"
    """
    base = "pg_catalog.text" if attribute is None else attribute.base_type
    schema, _, name = base.partition(".")
    sql_type = f"{quote(schema)}.{quote(name)}" if attribute is not None else base
    if kind == "redact" and (attribute is None or attribute.category == _CHARACTER):
        token = f"'{REDACTED}'::{sql_type}"
        return token if present is None else f"CASE WHEN {present or column} IS NOT NULL THEN {token} END"
    if kind == "hash" and base != _BYTEA:
        text = as_printed(column, base)
        return f"pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to({text}, 'UTF8')), 'hex')"
    return f"NULL::{sql_type}"


def as_printed(column: str, base_type: str) -> str:
    """A value as the text that PostgreSQL prints for it; NULL stays NULL."""
    if base_type in _CAST_DIFFERS:
        return f"CASE WHEN {column} IS NOT NULL THEN pg_catalog.format('%s', {column}) END"
    return f"({column})::pg_catalog.text"
