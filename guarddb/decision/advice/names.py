"""Real names for somebody who asked for one that is not there, or not open: nearest first, at most twenty."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pglast.keywords import RESERVED_KEYWORDS

from guarddb.decision.on_catalog import CompiledPolicy, Governance
from guarddb.decision.relations import user_relation
from guarddb.decision.system_columns import is_closed
from guarddb.lint.unknown import ALIKE, likeness
from guarddb.sql.catalog import Catalog, Relation
from guarddb.sql.names import quote
from guarddb.sql.statement import Reference

MOST = 20


def open_relations(policy: CompiledPolicy, catalog: Catalog) -> list[Relation]:
    """Every relation of the catalog that the policy's lists open to a SELECT."""
    found = []
    governance = policy.governance(catalog)
    for relation in catalog.relations.values():
        if relation.kind not in "rpvmf" or relation.schema.startswith("pg_"):
            continue
        reference = Reference(relation.schema, relation.name, relation, {}, "read", None, relation.name)
        if user_relation(reference, policy, catalog) is None and not is_closed(reference, governance):
            found.append(relation)
    return found


def nearest_relations(
    schema: str | None, name: str, policy: CompiledPolicy, catalog: Catalog
) -> list[Relation]:
    """The open relations, nearest to a name first; the same name in another schema is nearest of all."""

    def distance(relation: Relation) -> tuple[float, str, str]:
        alike = likeness(relation.name, name) + (0.05 if relation.schema == schema else 0.0)
        return (-alike, relation.schema, relation.name)

    return sorted(open_relations(policy, catalog), key=distance)[:MOST]


def alike_relations(
    schema: str | None, name: str, policy: CompiledPolicy, catalog: Catalog
) -> list[Relation]:
    """Those of them that somebody who wrote the name may have meant."""
    near = nearest_relations(schema, name, policy, catalog)
    return [relation for relation in near if likeness(relation.name, name) >= ALIKE]


def alike(name: str, names: Iterable[str], most: int = 3) -> list[str]:
    """The names that somebody who wrote `name` may have meant, nearest first."""
    scored = sorted(
        ((likeness(each, name), each) for each in set(names)), key=lambda pair: (-pair[0], pair[1])
    )
    return [each for score, each in scored if score >= ALIKE][:most]


def column_alike(name: str, relations: Iterable[Relation]) -> str | None:
    """Which column of these somebody who wrote the name may have meant, as a sentence; None when none is near."""
    near = alike(name, (a.name for relation in relations for a in relation.attributes))
    return f"Did you mean {' or '.join(map(identifier, near))}?" if near else None


def columns_of(relation: Relation, governance: Governance) -> str:
    """The columns of a relation as a sentence: the first of them, and none that its row filters ask."""
    asked = {column for each in governance.rules_for(relation).filters for column in each.columns}
    names = [identifier(a.name) for a in relation.attributes if a.name not in asked]
    more = ", …" if len(names) > MOST else ""
    return f"Columns of {shown(relation)}: {', '.join(names[:MOST])}{more}."


_SIMPLE = re.compile(r"[a-z_][a-z0-9_]*")


def shown(relation: Relation) -> str:
    """A relation as it is written in SQL, with its schema; quoted only where it has to be."""
    return f"{identifier(relation.schema)}.{identifier(relation.name)}"


def identifier(name: str) -> str:
    """A name as it is written in SQL.

    >>> identifier("film"), identifier("Film"), identifier("order")
    ('film', '"Film"', '"order"')
    """
    plain = _SIMPLE.fullmatch(name) is not None and name not in RESERVED_KEYWORDS
    return name if plain else quote(name)
