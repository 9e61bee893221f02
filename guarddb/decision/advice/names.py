"""Real names for somebody who asked for one that is not there, or not open: nearest first, at most twenty."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pglast.keywords import RESERVED_KEYWORDS

from guarddb.decision.on_catalog import CompiledPolicy
from guarddb.decision.relations import user_relation
from guarddb.lint.unknown import ALIKE, likeness
from guarddb.sql.catalog import Catalog, Relation
from guarddb.sql.names import quote
from guarddb.sql.statement import Reference

MOST = 20


def open_relations(policy: CompiledPolicy, catalog: Catalog) -> list[Relation]:
    """Every relation of the catalog that the policy's lists open to a SELECT."""
    found = []
    for relation in catalog.relations.values():
        if relation.kind not in "rpvmf" or relation.schema.startswith("pg_"):
            continue
        reference = Reference(relation.schema, relation.name, relation, {}, "read", None, relation.name)
        if user_relation(reference, policy, catalog) is None:
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
