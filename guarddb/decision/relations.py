"""Relations: denylist, allowlist, and what of the system catalogs is not for everybody."""

from __future__ import annotations

from guarddb.decision.case import Case
from guarddb.decision.on_catalog import CompiledPolicy, is_system
from guarddb.decision.refusal import Refusal
from guarddb.decision.system_columns import (
    closed_behind,
    closed_to,
    closes_any,
    is_listed_by_name,
    looks_at_values,
    writes_the_servers_own,
)
from guarddb.facts import functions as facts
from guarddb.facts.system_relations import is_restricted_relation
from guarddb.sql.analysis.definitions import Definition
from guarddb.sql.catalog import Catalog
from guarddb.sql.statement import Reference, Statement

#: Foreign servers (a loop back to this very database brings its rows under other names), replication, copies of a database.
_OUTSIDE = frozenset(
    (
        "foreign server",
        "foreign table",
        "foreign schema",
        "user mapping",
        "foreign data wrapper",
        "publication",
        "subscription",
        "database",
    )
)


def relations(case: Case) -> Refusal | None:
    """The first relation that the profile does not open, seen through views and from partitions up to their parents.

    >>> import guarddb
    >>> guarddb.evaluate("SELECT * FROM secrets", {"table_allowlist": ["notes"]}).rule
    'table_not_allowed'
    >>> guarddb.evaluate("SELECT * FROM pg_authid", {}).rule
    'table_not_allowed'
    """
    statement, policy = case.statement, case.policy
    profile = policy.profile
    refusal = _moves_a_schema(statement, policy)
    if refusal is not None:
        return refusal
    admitted = case.governance.admitted
    for named in statement.references:
        refusal = writes_the_servers_own(named, case)
        if refusal is not None:
            return refusal
        if ("open", named.schema, named.name, named.inherits) in admitted and named.mode != "ddl":
            continue
        reference = _table_of_index(named, case.catalog) or named
        if is_system(reference.schema):
            refusal = _system(reference, case)
        elif profile.forbids_nothing:
            restricted = is_restricted_relation(reference.schema, reference.name)
            refusal = _restricted(reference) if restricted else None
        else:
            refusal = _unread(reference) or _user_relation(reference, case)
            if refusal is None and (reference.mode != "ddl" or looks_at_values(statement)):
                refusal = closed_to(reference, statement, case.governance) or closed_behind(reference, case)
                if refusal is None and reference.relation is not None and not closes_any(reference, case):
                    admitted.add(("open", reference.schema, reference.name, reference.inherits))
        if refusal is not None:
            return refusal
    return None


def _table_of_index(reference: Reference, catalog: Catalog | None) -> Reference | None:
    """The table of an index that a definition names (DROP INDEX, REINDEX, ALTER TABLE of an index); None of anything else."""
    if reference.mode != "ddl" or reference.relation is not None or catalog is None:
        return None
    schema = reference.node.get("schemaname")
    for each in (schema,) if schema is not None else (catalog.temp_schema, *catalog.search_path):
        for relation in catalog.relations.values():
            if relation.schema == each and any(index.name == reference.name for index in relation.indexes):
                return Reference(
                    relation.schema, relation.name, relation, reference.node, "ddl", None, relation.name
                )
    return None


def _unread(reference: Reference) -> Refusal | None:
    """A view that could not be read when the catalog was: nobody knows what is behind it."""
    if reference.relation is None or reference.relation.definition != "":
        return None
    return Refusal(
        "statement_not_allowed",
        f'what view "{reference.qualified_name}" reads is not known yet, because another session has locked it',
        "Try again when that session is done, or read other relations.",
    )


def _moves_a_schema(statement: Statement, policy: CompiledPolicy) -> Refusal | None:
    """ALTER SCHEMA … RENAME: rules are about names, and every table of the schema would get another."""
    if "ddl" not in statement.kinds and not statement.definitions:
        return None
    if not policy.restricts_data:
        return None
    definition = statement.definitions[0] if statement.definitions else None  # None: SELECT INTO
    if _shadows_a_type(statement, definition):
        return Refusal(
            "table_denied",
            "a temporary relation or type with the name of a built-in type would stand in for it",
            "Give it another name.",
        )
    if definition is None:
        return None
    command, what = definition.command, definition.object
    if what in _OUTSIDE and definition.verb in ("create", "alter", "import") and command not in _SETTINGS:
        return Refusal(
            "table_denied",
            f"{statement.operation} would bring rows past this policy, from outside or to the outside",
            "Work with the tables of this database.",
        )
    renames = definition.verb == "rename" and what == "schema"
    if not renames and not (what == "extension" and _moves_members(definition)):
        return None
    return Refusal(
        "table_denied",
        f"{statement.operation} would give the tables of a schema other names, and take the rules of this policy off them",
        "Leave the schema's name as it is.",
    )


#: ALTER DATABASE, which is about the database's own settings.
_SETTINGS = frozenset(("AlterDatabaseStmt", "AlterDatabaseSetStmt", "AlterDatabaseRefreshCollStmt"))


def _moves_members(definition: Definition) -> bool:
    return definition.verb == "move" or definition.command == "AlterExtensionContentsStmt"


def _shadows_a_type(statement: Statement, definition: Definition | None) -> bool:
    """The temporary schema is searched for types first, and every relation is a type as well."""
    for reference in statement.references:
        if reference.mode == "ddl" and facts.builtin_type(reference.node.get("relname", "")) is not None:
            temporary = reference.node.get("relpersistence") == "t"
            if temporary or str(reference.node.get("schemaname", "")).startswith("pg_temp"):
                return True
    if definition is None:
        return False
    if definition.verb == "rename" and "subname" not in definition.fields:
        # Of a relation that is not known nobody knows whether it is a temporary one.
        named = [r for r in statement.references if r.node is definition.fields.get("relation")]
        temporary = any(r.relation is None or r.relation.schema.startswith("pg_temp") for r in named)
        return temporary and facts.builtin_type(definition.fields.get("newname", "")) is not None
    if definition.verb != "create" or definition.object not in ("type", "domain"):
        return False
    return any(schema is not None and schema.startswith("pg_temp") for schema, _ in definition.names)


def _user_relation(reference: Reference, case: Case) -> Refusal | None:
    """`user_relation`, asked once of each relation of a catalog that is admitted."""
    key = ("relation", reference.schema, reference.name, reference.inherits)
    if key in case.governance.admitted:
        return None
    refusal = user_relation(reference, case.policy, case.catalog)
    if refusal is None and reference.relation is not None:
        case.governance.admitted.add(key)
    return refusal


def user_relation(reference: Reference, policy: CompiledPolicy, catalog: Catalog | None) -> Refusal | None:
    profile = policy.profile
    rules = policy.governance(catalog).rules(reference)
    shown = f'table "{reference.qualified_name}"'
    if profile.deny_patterns:
        for identity in rules.identities:
            if entry := _denied(identity, policy):
                return Refusal("table_denied", f"{shown} is denied by this policy", _hint(policy), entry)
        for identity in sorted(rules.seen_through):
            if entry := _denied(identity, policy):
                return Refusal(
                    "table_denied",
                    f'{shown} reads "{identity[0]}.{identity[1]}", which is denied by this policy',
                    _hint(policy),
                    entry,
                )
        if reference.inherits and reference.relation is not None and catalog is not None:
            for oid in reference.relation.descendants:
                child = catalog.by_oid(oid)
                if child is not None and (entry := _denied((child.schema, child.name), policy)):
                    return Refusal(
                        "table_denied",
                        f'{shown} includes its child "{child.schema}.{child.name}", which is denied by this policy',
                        _hint(policy),
                        entry,
                    )
    if is_restricted_relation(reference.schema, reference.name) and not is_listed_by_name(reference, policy):
        return _restricted(reference)
    if not profile.allow_patterns:
        return None
    if any(
        pattern.matches(schema, name, bare="public", strict=True)
        for schema, name in rules.identities
        for pattern in profile.allow_patterns
    ):
        return None
    listed = ", ".join(profile.table_allowlist)
    return Refusal(
        "table_not_allowed",
        f"{shown} is not in this credential's allowlist; allowed tables: {listed}",
        f"Use only these tables: {listed}.",
    )


def _denied(identity: tuple[str, str], policy: CompiledPolicy) -> str | None:
    """The entry of the denylist that names a relation, or None."""
    for index, pattern in enumerate(policy.profile.deny_patterns):
        if pattern.matches(*identity, bare="any", strict=False):
            return f"table_denylist[{index}]"
    return None


def _hint(policy: CompiledPolicy) -> str:
    allowed = policy.profile.table_allowlist
    return (
        f"Use only these tables: {', '.join(allowed)}."
        if allowed
        else "Leave this table out of the statement."
    )


def _restricted(reference: Reference) -> Refusal:
    return Refusal(
        "table_not_allowed",
        f'"{reference.qualified_name}" shows other sessions\' SQL, secrets or sampled data; '
        "it needs an explicit schema-qualified entry in this credential's allowlist",
        "Ask the tables themselves for the data you need.",
    )


def _system(reference: Reference, case: Case) -> Refusal | None:
    statement, policy = case.statement, case.policy
    shown = f'"{reference.qualified_name}"'
    if entry := _denied((reference.schema, reference.name), policy):
        return Refusal("table_denied", f"table {shown} is denied by this policy", _hint(policy), entry)
    if reference.mode not in ("read", "copy") or (
        reference.mode == "copy" and statement.fields.get("is_from")
    ):
        return Refusal(
            "table_denied",
            f"{shown} belongs to the system and cannot be changed",
            "Read it; change only tables of your own.",
        )
    if reference.schema.startswith("pg_toast") and not is_listed_by_name(reference, policy):
        return Refusal(
            "table_denied",
            f"{shown} holds raw column data that no rule covers",
            "Read the table it belongs to.",
        )
    if is_restricted_relation(reference.schema, reference.name) and not is_listed_by_name(reference, policy):
        return _restricted(reference)
    return closed_to(reference, statement, case.governance)
