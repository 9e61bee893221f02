"""Write `guarddb/facts/builtins.json`: what PostgreSQL servers say about their own built-in objects.

    python -m guarddb.cli.generate_facts --dsn <PostgreSQL 18> --dsn <PostgreSQL 16>

Several servers are merged, because a statement is judged before anybody knows which version will run it: a
name that any of them has is known, and an overload that differs between them is as volatile as its most
volatile form.
"""

from __future__ import annotations

import argparse
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from guarddb.facts.functions import CastFact, Facts, OperatorFact, Overload, SystemRelation, TypeFact

#: From harmless to not: i immutable, s stable, v volatile.
_VOLATILITY = "isv"


def read_facts(conn: Any) -> Facts:
    """The facts of the one server that `conn` (a psycopg connection) leads to."""
    major: int = conn.info.server_version // 10000
    facts = Facts(majors=(major,))
    source = resources.files("guarddb.facts")

    def rows(name: str) -> Any:
        return conn.execute((source / f"{name}.sql").read_text()).fetchall()

    for (
        name,
        arguments,
        required,
        variadic,
        kind,
        volatility,
        strict,
        set_,
        result,
        names,
        types,
        leakproof,
    ) in rows("functions"):
        facts.functions.setdefault(name, []).append(
            Overload(
                arguments=tuple(arguments),
                required=required,
                variadic=variadic,
                kind=kind,
                volatility=volatility,
                strict=strict,
                returns_set=set_,
                returns=result,
                output_names=tuple(names),
                output_types=tuple(types),
                leakproof=leakproof,
            )
        )
    for name, *operator in rows("operators"):
        facts.operators.setdefault(name, []).append(OperatorFact(*operator))
    for name, *type_ in rows("types"):
        facts.types[name] = TypeFact(name, *type_)
    for name, *cast in rows("casts"):
        facts.casts.setdefault(name, []).append(CastFact(*cast))
    for schema, name, kind, columns in rows("relations"):
        facts.relations[f"{schema}.{name}"] = SystemRelation(schema, name, kind, tuple(columns))
    return facts


def merge(newer: Facts, older: Facts) -> Facts:
    """Both in one; where they differ the newer wins, but that the worst volatility counts, and the one that is leaky."""
    majors = newer.majors + older.majors
    merged = Facts(majors=majors)
    for name in sorted({*newer.functions, *older.functions}):
        ours = {overload.arguments: overload for overload in newer.functions.get(name, [])}
        theirs = {overload.arguments: overload for overload in older.functions.get(name, [])}
        overloads = merged.functions[name] = []
        for arguments in [*ours, *(each for each in theirs if each not in ours)]:
            found = [
                (each[arguments], each[arguments].majors or source.majors)
                for each, source in ((ours, newer), (theirs, older))
                if arguments in each
            ]
            where = tuple(major for _, in_majors in found for major in in_majors)
            overloads.append(
                msgspec.structs.replace(
                    found[0][0],
                    volatility=max((each.volatility for each, _ in found), key=_VOLATILITY.index),
                    majors=() if where == majors else where,
                    leakproof=all(each.leakproof for each, _ in found),
                )
            )
    for name in sorted({*newer.operators, *older.operators}):
        here = newer.operators.get(name, [])
        there = {(each.left, each.right): each for each in older.operators.get(name, [])}
        both = [(each, there.pop((each.left, each.right), each)) for each in here]
        merged.operators[name] = [
            *(
                msgspec.structs.replace(ours, leakproof=ours.leakproof and old.leakproof)
                for ours, old in both
            ),
            *there.values(),
        ]
    for name in sorted({*newer.casts, *older.casts}):
        casts = {each.target: each for each in older.casts.get(name, [])}
        pairs = [(each, casts.pop(each.target, each)) for each in newer.casts.get(name, [])]
        merged.casts[name] = [
            *(
                msgspec.structs.replace(ours, leakproof=ours.leakproof and old.leakproof)
                for ours, old in pairs
            ),
            *casts.values(),
        ]
    merged.types.update(sorted({**older.types, **newer.types}.items()))
    for name, relation in sorted({**older.relations, **newer.relations}.items()):
        before = older.relations.get(name)
        if before is not None and before is not relation:
            # A column that an older version has is still a column of this relation there.
            gone = tuple(column for column in before.columns if column not in relation.columns)
            relation = msgspec.structs.replace(relation, columns=relation.columns + gone)
        merged.relations[name] = relation
    return merged


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Generate the facts about PostgreSQL's built-in objects.")
    parser.add_argument("--dsn", action="append", required=True, help="a server; repeat, newest first")
    parser.add_argument("--output", type=Path, help="default: the file inside the package")
    options = parser.parse_args(arguments)

    import psycopg

    found: Facts | None = None
    for dsn in options.dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            facts = read_facts(conn)
        found = facts if found is None else merge(found, facts)
    target = options.output or Path(str(resources.files("guarddb.facts") / "builtins.json"))
    # One entry a line keeps the next regeneration readable as a diff.
    document = msgspec.json.encode(found)
    target.write_bytes(document.replace(b']],"', b']],\n"').replace(b'],"', b'],\n"') + b"\n")


if __name__ == "__main__":
    main()
