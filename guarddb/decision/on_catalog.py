"""A profile made ready to judge, and what it makes of each relation of a catalog."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set as AbstractSet
from functools import cached_property
from threading import RLock
from types import MappingProxyType

from cachetools import LRUCache

from guarddb.decision.filters.predicates import bind
from guarddb.decision.foundation import Foundation, foundation
from guarddb.decision.masks.marks import Marks
from guarddb.decision.masks.uses import use_kinds
from guarddb.decision.relation_rules import NO_MASKS, RelationRules
from guarddb.facts.groups import Hidden
from guarddb.lint.unknown import UnknownRule, unknown_rules
from guarddb.policy.patterns import NamePart, RelationPattern, fold
from guarddb.policy.predicate import Predicate
from guarddb.policy.profile import PolicyProfile
from guarddb.sql.analysis.classify import read_statement
from guarddb.sql.analysis.scope import SYSTEM_COLUMNS
from guarddb.sql.bodies import Settings, defines, settings_of
from guarddb.sql.catalog import Cast, Catalog, Constraint, Function, Relation
from guarddb.sql.leakproof.parts import holds_aggregate
from guarddb.sql.statement import PREDICATE_CLAUSES, Link, Output, Reference, Root, Statement, origins
from guarddb.tree import nodes, parse
from guarddb.vocabulary import MaskKind, MaskUseKind, strictest

_SYSTEM_SCHEMAS = frozenset(("pg_catalog", "information_schema", "pg_toast"))
_MAX_VIEW_DEPTH = 32
#: So many queries a bare column is followed through in a row; through more it is followed with a memory of where it was.
_MAX_COPIES = 32
#: Clauses of a view that the planner takes into the query around it.
_PULLED_UP = frozenset(("targetList", "fromClause", "whereClause", "limitOption", "op"))
#: On a branch there is no data to protect from its agent: nobody else sees it, and it is thrown away.
_LIFTED_ON_A_BRANCH = frozenset(("destructive_ddl", "whereless_write"))


class CompiledPolicy:
    """A profile with its settings bound. Holds, for the catalogs it has met lately, what each relation is subject to.

    Attributes:
        profile: the profile in force.
        version: its version, part of every decision and cache key.
        settings: values of the settings that row filters read, by lower-case name; the caller's over the profile's own.
    """

    def __init__(self, profile: PolicyProfile, version: str, settings: Mapping[str, str]) -> None:
        self.profile = profile
        self.version = version
        self.settings: Mapping[str, str] = MappingProxyType(
            {name.lower(): value for name, value in {**profile.guarddb.settings, **settings}.items()}
        )
        self._governance: LRUCache[object, Governance] = LRUCache(4)
        #: the catalog that was asked about last, and the answer
        self._last: tuple[Catalog | None, Governance] | None = None
        self._lock = RLock()

    @cached_property
    def restricts_data(self) -> bool:
        """Whether the profile protects any data inside the database: masks, filters, or a list of relations."""
        profile = self.profile
        return bool(
            profile.masking_rules or profile.row_filters or profile.table_allowlist or profile.table_denylist
        )

    @cached_property
    def hides(self) -> frozenset[Hidden]:
        """What functions that look beyond their arguments could tell of although the policy hides it."""
        profile = self.profile
        hidden: list[Hidden] = []
        if profile.row_filters:
            hidden.append("filter")
        if profile.masking_rules:
            hidden.append("mask")
            if profile.access_mode == "read_write":
                hidden.append("written")
        if profile.table_allowlist or profile.table_denylist:
            hidden.append("list")
        return frozenset(hidden)

    @cached_property
    def floor_exceptions(self) -> frozenset[str]:
        """The rules of the floor that are lifted: by the profile, and in the sandbox those that protect data."""
        lifted = frozenset(self.profile.guarddb.floor_exceptions)
        return lifted | _LIFTED_ON_A_BRANCH if self.profile.write_mode == "sandbox" else lifted

    @cached_property
    def protected_settings(self) -> frozenset[str]:
        """Settings that a session may not change, by lower-case name."""
        return frozenset(self.settings) | self.profile.filter_settings

    @cached_property
    def session_notes(self) -> tuple[str, ...]:
        """What one statement cannot decide: budgets and caps."""
        profile = self.profile
        notes = []
        if profile.budget_queries_per_hour or profile.budget_queries_per_day:
            notes.append("counts against the query budget of the session")
        if profile.egress_bytes_per_day:
            notes.append("the result counts against the egress budget of the session")
        if profile.max_rows:
            notes.append(f"a result is cut after {profile.max_rows} rows")
        if profile.max_affected_rows:
            notes.append(
                f"a write that touches more than {profile.max_affected_rows} rows is undone and refused"
            )
        if profile.approval_mode != "off":
            held = {"writes": "writes wait", "ddl": "DDL waits", "all": "writes and DDL wait"}
            notes.append(f"{held[profile.approval_mode]} for the approval of a person")
        if profile.write_mode == "sandbox":
            notes.append("the session works on a throw-away branch of the database")
        if profile.write_mode == "rollback":
            notes.append("every transaction is rolled back where it would have committed")
        return tuple(notes)

    def governance(self, catalog: Catalog | None) -> Governance:
        """What the profile makes of this catalog's relations; the last few catalogs are remembered."""
        last = self._last
        if last is not None and last[0] is catalog:
            return last[1]
        key = None if catalog is None else (catalog.version, id(catalog.relations))
        with self._lock:
            found = self._governance.get(key)
            if found is None:
                found = self._governance[key] = Governance(self, catalog)
        self._last = catalog, found
        return found


class Governance:
    """A policy applied to one catalog: rules per relation, worked out when first asked for."""

    def __init__(self, policy: CompiledPolicy, catalog: Catalog | None) -> None:
        self.policy = policy
        self.catalog = catalog
        profile = policy.profile
        self.masks = profile.masks
        self.filters = profile.filters
        self.restricts = bool(self.masks or self.filters)
        #: filters that PostgreSQL cannot read; a connection asks it, see `filters/trials.py`
        self.faults: tuple[UnknownRule, ...] = ()
        #: calls and operators that were judged and admitted; what is refused is judged again each time
        self.admitted: set[object] = set()
        #: functions of domain CHECKs and casts that are not admitted; None until somebody asks
        self.type_hazards: tuple[list[str], list[Cast]] | None = None
        self._rules: dict[tuple[str, str], RelationRules] = {}
        #: the facts of views' definitions, by the view's OID; None for one that cannot be read
        self._definitions: dict[int, Statement | None] = {}
        #: what functions do to settings, by the function's identity
        self._settings_of: dict[int, Settings] = {}
        self._defines: dict[int, bool] = {}
        #: views whose definitions are being read, to notice one that refers to itself
        self._open: list[tuple[str, str]] = []
        self._lock = RLock()

    @cached_property
    def unknown(self) -> tuple[UnknownRule, ...]:
        """Entries of the profile that match nothing of this catalog."""
        return () if self.catalog is None else tuple(unknown_rules(self.policy.profile, self.catalog))

    # ------------------------------------------------------------------ relations

    def rules(self, reference: Reference) -> RelationRules:
        """The rules for the relation a reference means."""
        found = self._rules.get((reference.schema, reference.name))
        return found or self._first_rules(reference.schema, reference.name, reference.relation)

    def ruled(self, references: Iterable[Reference]) -> list[tuple[Reference, RelationRules]]:
        """Each of these with the rules for its relation."""
        known = self._rules
        return [
            (
                each,
                known.get((each.schema, each.name))
                or self._first_rules(each.schema, each.name, each.relation),
            )
            for each in references
        ]

    def rules_for(self, relation: Relation) -> RelationRules:
        found = self._rules.get((relation.schema, relation.name))
        return found or self._first_rules(relation.schema, relation.name, relation)

    def tables(self, pattern: RelationPattern) -> list[Relation]:
        """The relations of the catalog that an entry about rows or columns names."""
        if self.catalog is None:
            return []
        return [
            relation
            for relation in self.catalog.relations.values()
            if relation.kind != "c"
            and pattern.matches(relation.schema, relation.name, bare="public", strict=False)
        ]

    @cached_property
    def hides(self) -> frozenset[Hidden]:
        """What the policy hides; in this catalog also in which partition a row is, where a masked column decides that."""
        placed = self.catalog.relations.values() if self.catalog is not None and self.masks else ()
        if any(each.partitioned_by and self.rules_for(each).masked_key is not None for each in placed):
            return self.policy.hides | {"place"}
        return self.policy.hides

    @cached_property
    def governed_tables(self) -> list[Relation]:
        """The tables that masks or filters are about, partitions and children included."""
        if self.catalog is None or not self.restricts:
            return []
        return [
            relation
            for relation in self.catalog.relations.values()
            if relation.kind in ("r", "p", "f") and self.rules_for(relation).governed
        ]

    @cached_property
    def foundation(self) -> Foundation:
        """What the row filters stand on."""
        return foundation(self)

    @property
    def settings(self) -> AbstractSet[str]:
        """Settings that what a filter gives, or the text of a hash, follows."""
        return self.foundation.settings if self.restricts else frozenset()

    def settings_of(self, function: Function) -> Settings:
        """What a call of a function of this catalog may do to the settings of the session."""
        assert self.catalog is not None
        if id(function) not in self._settings_of:
            self._settings_of[id(function)] = settings_of([function], self.catalog)
        return self._settings_of[id(function)]

    @cached_property
    def triggers_set_settings(self) -> bool:
        """Whether a trigger function may set something."""
        if self.catalog is None:
            return False
        return settings_of(self._trigger_functions, self.catalog).any

    @cached_property
    def triggers_define(self) -> bool:
        """Whether a trigger function may change the catalog."""
        return self.catalog is not None and defines(self._trigger_functions, self.catalog)

    @property
    def _trigger_functions(self) -> list[Function]:
        functions = self.catalog.functions if self.catalog is not None else ()
        return [each for each in functions if each.returns == "pg_catalog.trigger"]

    def defines(self, function: Function) -> bool:
        """Whether a call of a function of this catalog may change it."""
        assert self.catalog is not None
        if id(function) not in self._defines:
            self._defines[id(function)] = defines([function], self.catalog)
        return self._defines[id(function)]

    def is_stood_on(self, relation: Relation) -> bool:
        """Whether a row filter reads the relation."""
        return (relation.schema, relation.name) in self.foundation.relations

    @cached_property
    def _referencing(self) -> dict[int, list[tuple[Relation, Constraint]]]:
        found: dict[int, list[tuple[Relation, Constraint]]] = {}
        for relation in self.catalog.relations.values() if self.catalog is not None else ():
            for constraint in relation.constraints:
                if constraint.kind == "f":
                    found.setdefault(constraint.references, []).append((relation, constraint))
        return found

    def referencing(self, oid: int) -> list[tuple[Relation, Constraint]]:
        """The foreign keys that reference a relation, each with its table."""
        return self._referencing.get(oid, [])

    def _first_rules(self, schema: str, name: str, relation: Relation | None) -> RelationRules:
        with self._lock:
            found = self._rules.get((schema, name))
            if found is None:
                found = self._rules[schema, name] = self._work_out(schema, name, relation)
            return found

    def _relation(self, oid: int) -> Relation | None:
        return None if self.catalog is None else self.catalog.by_oid(oid)

    def _work_out(self, schema: str, name: str, relation: Relation | None) -> RelationRules:
        rules = RelationRules()
        rules.identities = [(schema, name)]
        if self.catalog is not None and schema == self.catalog.temp_schema:
            rules.identities.append(("pg_temp", name))
        if relation is not None:
            rules.columns = frozenset(attribute.name for attribute in relation.attributes)
            rules.identities += [
                (parent.schema, parent.name)
                for oid in relation.ancestors
                if (parent := self._relation(oid)) is not None
            ]
        rules.masks = self._own_masks(rules.identities, relation)
        rules.filters = [
            bind(predicate, pattern, relation, schema, name, self.catalog, self.policy.settings)
            for pattern, predicate in self._own_filters(rules.identities)
        ]
        if relation is not None:
            if relation.descendants:
                self._look_at_children(rules, relation)
            if relation.definition is not None:
                self._look_through(rules, relation)
            self._look_at_key(rules, relation)
        rules.filter_entry = self._filter_entry([*rules.identities, *sorted(rules.seen_through)])
        return rules

    def _filter_entry(self, identities: Iterable[tuple[str, str]]) -> str | None:
        for identity in identities:
            for index, (pattern, _) in enumerate(self.filters):
                if pattern.matches(*identity, bare="public", strict=False):
                    return f"row_filters[{index}]"
        return None

    def _own_masks(
        self, identities: Iterable[tuple[str, str]], relation: Relation | None
    ) -> Mapping[str, MaskKind]:
        if not self.masks:
            return NO_MASKS
        masks: dict[str, MaskKind] = {}
        for schema, name in identities:
            for pattern, rule in self.masks:
                if not pattern.matches(schema, name, bare="public", strict=False):
                    continue
                for column in self._columns(rule.column_name, relation):
                    kind = strictest(masks.get(column), rule.kind)
                    assert kind is not None
                    masks[column] = kind
        if relation is not None and masks:
            self._inherit(masks, relation)
        return masks

    @staticmethod
    def _inherit(masks: dict[str, MaskKind], relation: Relation) -> None:
        """A generated column is a copy of what it is made of: it inherits the strictest mask, and a hash as `redact`.

        (The hash of `lower(email)` would tell whether a guess is right as well as that of the e-mail.)
        """
        for attribute in relation.attributes:
            kind: MaskKind | None = masks.get(attribute.name)
            for column in attribute.reads:
                if (below := masks.get(column)) is not None:
                    kind = strictest(kind, "redact" if below == "hash" else below)
            if kind is not None:
                masks[attribute.name] = kind

    @staticmethod
    def _columns(rule_column: NamePart, relation: Relation | None) -> list[str]:
        """The attributes a rule's column means; without a catalog its own (folded) spelling."""
        if relation is None:
            return [rule_column.text if rule_column.exact else fold(rule_column.text)]
        return [a.name for a in relation.attributes if rule_column.matches(a.name, strict=False)]

    def _look_at_key(self, rules: RelationRules, relation: Relation) -> None:
        """To which partition a row belongs tells of its key: by the partition's name, and by `tableoid`."""
        rules.masked_key = next((column for column in relation.partitioned_by if column in rules.masks), None)
        for oid in relation.ancestors:
            above = self._relation(oid)
            if above is None or not above.partitioned_by:
                continue
            parents = (self._relation(each) for each in above.ancestors)
            names = [(each.schema, each.name) for each in (above, *parents) if each is not None]
            masks = {*self._own_masks(names, above), *rules.masks}
            if (
                key := next((column for column in above.partitioned_by if column in masks), None)
            ) is not None:
                rules.partition_of = f"{above.schema}.{above.name}.{key}"

    def _own_filters(self, identities: Iterable[tuple[str, str]]) -> list[tuple[RelationPattern, Predicate]]:
        found: list[tuple[RelationPattern, Predicate]] = []
        for schema, name in identities:
            for entry in self.filters:
                if entry[0].matches(schema, name, bare="public", strict=False) and entry not in found:
                    found.append(entry)
        return found

    def _look_at_children(self, rules: RelationRules, relation: Relation) -> None:
        """Reading a parent reads its children: a rule of a child's own holds there as well, or the read is refused."""
        masks = dict(rules.masks)
        mine = {(str(f.pattern), f.source.text) for f in rules.filters}
        for oid in relation.descendants:
            child = self._relation(oid)
            if child is None:
                continue
            below = self.rules_for(child)
            for column, kind in below.masks.items():
                merged = strictest(masks.get(column), kind)
                assert merged is not None
                masks[column] = merged
            if {(str(f.pattern), f.source.text) for f in below.filters} - mine:
                rules.unsafe = f'it has the partition or child "{child.schema}.{child.name}", which has a row filter of its own'
        rules.masks = masks

    # ------------------------------------------------------------------ views

    def _look_through(self, rules: RelationRules, view: Relation) -> None:
        key = (view.schema, view.name)
        if key in self._open or len(self._open) > _MAX_VIEW_DEPTH:
            rules.unsafe = "its definition refers to itself"
            return
        self._open.append(key)
        try:
            statement = self._definition(view)
        finally:
            self._open.pop()
        if statement is None or statement.top is None:
            rules.unsafe = "its definition could not be read"
            return
        rules.definition = statement
        self._open.append(key)
        try:
            self._take_from_definition(rules, view, statement)
        finally:
            self._open.pop()

    def _take_from_definition(self, rules: RelationRules, view: Relation, statement: Statement) -> None:
        for reference in statement.references:
            below = self.rules(reference)
            rules.seen_through.update(below.identities)
            rules.seen_through |= below.seen_through
            if below.unsafe and self.restricts:
                rules.unsafe = rules.unsafe or f'it reads "{reference.qualified_name}": {below.unsafe}'
            if below.filters or below.needs_inlining:
                if view.kind == "m":
                    rules.unsafe = (
                        f'it is a materialised view over "{reference.qualified_name}", '
                        "and its stored rows cannot be filtered"
                    )
                rules.needs_inlining = True
        if not self.masks:
            return
        masks = dict(rules.masks)
        assert statement.top is not None
        for attribute, output in zip(view.attributes, statement.top.outputs, strict=False):
            kind = strictest(masks.get(attribute.name), self.mask_of(output))
            if kind is not None:
                masks[attribute.name] = kind
        rules.masks = masks
        for reference in statement.references:
            rules.predicate_masks += [
                p for p in self.rules(reference).predicate_masks if p not in rules.predicate_masks
            ]
        for reference in statement.references:
            if (told := self.told_of_key(reference, statement)) is not None:
                rules.predicate_masks.append(told)
        for root in statement.roots:
            if root.clause not in PREDICATE_CLAUSES:
                continue
            for link, _ in root.uses:
                if self.mask_of(link) is not None and not self.use_allowed(link, root):
                    shown = self.shown(link)
                    if shown not in rules.predicate_masks:
                        rules.predicate_masks.append(shown)

    def _definition(self, view: Relation) -> Statement | None:
        """The facts of a view's definition, worked out once a catalog; None when it cannot be read."""
        assert self.catalog is not None
        if view.oid not in self._definitions:
            try:
                raw = parse(view.definition or "", checked=False)
                self._definitions[view.oid] = read_statement(
                    raw[0], self.catalog.for_definitions(), {"prepared": {}, "portals": {}}
                )
            except Exception:  # whatever it is, a definition that is not understood is not seen through
                self._definitions[view.oid] = None
        return self._definitions[view.oid]

    def is_pulled_up(self, view: Relation) -> bool:
        """Whether the planner takes a view's tables into the query around it: what that does not ask for is then not read."""
        definition = self._definition(view)
        if definition is None or definition.top is None or not definition.top.fields.keys() <= _PULLED_UP:
            return False
        fields = definition.top.fields
        if holds_aggregate(fields.get("targetList", ())):
            return False
        if any(kind in ("SubLink", "RangeSubselect") for kind, _ in nodes(fields)):
            return False
        return all(
            reference.relation is not None
            and (reference.relation.kind != "v" or self.is_pulled_up(reference.relation))
            for reference in definition.references
        )

    # ------------------------------------------------------------------ masks

    def mask_of(self, link: Link, marks: Marks | None = None) -> MaskKind | None:
        """The mask on what a link carries: the rule's kind for a bare column, `null` through anything else.

        `marks` remembers outputs, for as long as the statement they belong to is judged.
        """
        if type(link) is tuple:
            return self._base_mask(link)
        if marks is None:
            return self._follow(link, {})
        known, key = marks.kinds, id(link)
        if key in known:
            return known[key]
        found = known[key] = self._follow(link, known)
        return found

    def _follow(self, link: Link, known: Mapping[int, MaskKind | None]) -> MaskKind | None:
        """What `mask_of` an output is, with what is known of other outputs by their ids."""
        for _ in range(_MAX_COPIES):
            if isinstance(link, tuple):
                found = self._base_mask(link)
                return "null" if found is not None and link[1] == "*" else found
            if len(link.links) != 1 or link.opaque or link.root is not None:
                break
            link = link.links[0]  # a bare copy
        kind: MaskKind | None = None
        seen: set[tuple[int, bool]] = set()
        stack: list[tuple[Link, bool]] = [(link, True)]
        while stack:
            item, bare = stack.pop()
            if isinstance(item, tuple):
                found = self._base_mask(item)
                if found is not None:
                    kind = strictest(kind, found if bare and item[1] != "*" else "null")
                continue
            if (id(item), bare) in seen:
                continue
            if id(item) in known:
                if (found := known[id(item)]) is not None:
                    kind = strictest(kind, found if bare else "null")
                continue
            seen.add((id(item), bare))
            stack += [(each, bare) for each in item.links]
            if item.opaque:
                stack += [(each, False) for each in item.opaque]
            if item.root is not None:
                stack += [(use, False) for use, _ in item.root.uses]
        return kind

    def _base_mask(self, origin: tuple[Reference, str]) -> MaskKind | None:
        reference, attribute = origin
        rules = self._rules.get((reference.schema, reference.name)) or self.rules(reference)
        masks = rules.masks
        if not masks:
            return None
        if attribute in masks:
            return masks[attribute]
        if attribute != "*" and (
            reference.relation is None or attribute in SYSTEM_COLUMNS or attribute in rules.columns
        ):
            return None
        # The whole row; and what is no attribute of a known relation may be anything of it.
        kind: MaskKind | None = None
        for each in masks.values():
            kind = strictest(kind, each)
        return kind

    def told_of_key(self, reference: Reference, statement: Statement) -> str | None:
        """The masked partition key (`schema.table.column`) of which a mention of a relation tells, or None."""
        rules = self.rules(reference)
        if reference.mode == "ddl" or (rules.partition_of is None and rules.masked_key is None):
            return None
        if rules.partition_of is not None:
            return rules.partition_of
        key = f"{reference.qualified_name}.{rules.masked_key}"
        if statement.analyzes:
            return key  # how many rows came out of which partition
        links = [link for root in statement.roots for link, _ in root.uses]
        links += [link for query in statement.queries for o in query.outputs for link in o.links]
        # (A place in a table is one of each partition: two rows in the same place are in different ones.)
        return key if (reference, "tableoid") in links or (reference, "ctid") in links else None

    def use_allowed(self, link: Link, root: Root) -> bool:
        """Whether `guarddb.mask_uses` allows what a clause does with a masked column."""
        if not self.policy.profile.guarddb.mask_uses:
            return False
        uses = use_kinds(root, link)
        if not uses:
            return False
        return all(
            self._base_mask(origin) is None or uses <= self._allowed_uses(origin) for origin in origins(link)
        )

    def uses_of(self, relation: Relation, attribute: str) -> frozenset[MaskUseKind]:
        """What else than being selected the profile lets a masked column be used for."""
        return self._uses(self.rules_for(relation).identities, attribute)

    def _allowed_uses(self, origin: tuple[Reference, str]) -> frozenset[MaskUseKind]:
        return self._uses(self.rules(origin[0]).identities, origin[1])

    def _uses(self, identities: Iterable[tuple[str, str]], attribute: str) -> frozenset[MaskUseKind]:
        allowed: set[MaskUseKind] = set()
        for schema, name in identities:
            for pattern, use in self.policy.profile.mask_use_patterns:
                if pattern.matches(schema, name, bare="public", strict=True) and use.column_name.matches(
                    attribute, strict=True
                ):
                    allowed.update(use.allow)
        return frozenset(allowed)

    def shown(self, link: Link) -> str:
        """A link as a person reads it: `public.users.ssn`. Of several origins, a masked one."""
        if isinstance(link, Output):
            found = sorted(
                f"{r.qualified_name}.{a}" for r, a in origins(link) if self._base_mask((r, a)) is not None
            )
            return found[0] if found else link.name
        return f"{link[0].qualified_name}.{link[1]}"


def is_system(schema: str) -> bool:
    return schema in _SYSTEM_SCHEMAS or schema.startswith("pg_toast")
