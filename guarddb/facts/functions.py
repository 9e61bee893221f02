"""Facts about PostgreSQL's built-in functions, operators, types and relations, and what the floor makes of
them.

The facts come from the catalogs of real servers (`builtins.json`, written by
`guarddb.cli.generate_facts`). What a function does beyond computing no catalog says: that is in `groups.py`, which
names every VOLATILE built-in, and here for the functions of extensions.

All names are without schema and as PostgreSQL stores them. A function that users made is not among these
facts; it comes from the catalog snapshot.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Literal, TypeAlias

import msgspec

from guarddb.facts.groups import Group, group_of

FunctionKind: TypeAlias = Literal["f", "a", "w", "p"]
Volatility: TypeAlias = Literal["i", "s", "v"]


class Overload(msgspec.Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    """One function of pg_catalog: a name may have several, told apart by their arguments.

    `kind` is pg_proc.prokind (f function, a aggregate, w window function, p procedure), `volatility`
    provolatile (i immutable, s stable, v volatile); types are pg_type names without schema. `required` is the
    fewest arguments a call may have. `majors` lists the PostgreSQL versions that have it; empty: all that the
    facts were made from. `leakproof` is proleakproof: it tells nothing of its arguments but by its result.
    """

    arguments: tuple[str, ...]
    required: int
    variadic: bool
    kind: FunctionKind
    volatility: Volatility
    strict: bool
    returns_set: bool
    returns: str
    output_names: tuple[str, ...] = ()
    output_types: tuple[str, ...] = ()
    majors: tuple[int, ...] = ()
    leakproof: bool = False

    def takes(self, nargs: int) -> bool:
        """Whether a call with `nargs` arguments may mean this one.

        Generous with VARIADIC: `f(VARIADIC array)` and `f(a, b, c)` both count, and so does a call without
        it.
        """
        if self.variadic:
            return nargs >= min(self.required, len(self.arguments) - 1)
        return self.required <= nargs <= len(self.arguments)


class OperatorFact(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An operator of pg_catalog; `left` is None for a prefix operator. `volatility` and `leakproof` are those
    of `function`, the one behind it."""

    left: str | None
    right: str
    result: str
    volatility: Volatility
    function: str = ""
    leakproof: bool = False


class CastFact(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A cast between types of pg_catalog.

    `method`: f calls a function (whose `volatility` and `leakproof` these are), i goes by the types' text, b does
    nothing. `context`: e explicit, a assignment, i implicit.
    """

    target: str
    method: Literal["f", "i", "b"]
    context: Literal["e", "a", "i"]
    volatility: Volatility = "i"
    leakproof: bool = True


class TypeFact(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A type of pg_catalog: typcategory, typtype, the element type when it is an array type, and whether it is
    the preferred one of its category."""

    name: str
    category: str
    kind: str
    element: str | None = None
    preferred: bool = False


class SystemRelation(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A table or view of pg_catalog or information_schema. `columns` joins those of all versions, newest
    first."""

    schema: str
    name: str
    kind: str
    columns: tuple[str, ...]

    @property
    def qualified_name(self) -> str:
        return f"{self.schema}.{self.name}"


class Facts(msgspec.Struct):
    """The document in `builtins.json`. The keys of `relations` are `schema.name`."""

    majors: tuple[int, ...]
    functions: dict[str, list[Overload]] = {}
    operators: dict[str, list[OperatorFact]] = {}
    types: dict[str, TypeFact] = {}
    #: by the type that is cast
    casts: dict[str, list[CastFact]] = {}
    relations: dict[str, SystemRelation] = {}


@cache
def facts() -> Facts:
    """Everything, read once (some milliseconds) when the first question is asked."""
    document = (resources.files("guarddb.facts") / "builtins.json").read_bytes()
    return msgspec.json.decode(document, type=Facts)


@cache
def end_of_facts() -> int:
    """From this version on a server may have built-in functions and operators that the facts do not know."""
    return (max(facts().majors) + 1) * 10_000


# --- what there is ------------------------------------------------------------------------------------------


@cache
def builtin(name: str) -> tuple[Overload, ...]:
    """The functions of pg_catalog with this name; empty when there is none.

    `float8(x)` and `json(x)` look like calls and are casts: PostgreSQL tries a type of that name when a call
    with one argument fits no function (func_get_detail), so ask `builtin_type` before calling a name unknown.
    """
    return tuple(facts().functions.get(name, ()))


@cache
def builtin_operator(name: str) -> tuple[OperatorFact, ...]:
    """The operators of pg_catalog with this name; empty when there is none."""
    return tuple(facts().operators.get(name, ()))


def builtin_cast(source: str, target: str) -> CastFact | None:
    """The cast between two types of pg_catalog that has an entry of its own, or None."""
    return next((cast for cast in facts().casts.get(source, ()) if cast.target == target), None)


def builtin_type(name: str) -> TypeFact | None:
    """The type of pg_catalog with this name (`int4`, not `integer`; `_int4` for its array)."""
    return facts().types.get(name)


def system_relation(schema: str | None, name: str) -> SystemRelation | None:
    """The system relation that a name means. A bare name can only be one of pg_catalog."""
    return facts().relations.get(f"{schema or 'pg_catalog'}.{name}")


#: What a column's definition may say in place of a type: an integer with a sequence of its own.
SERIAL = frozenset(("smallserial", "serial", "bigserial", "serial2", "serial4", "serial8"))

_ROW_TYPES = frozenset(
    {"record", "anyelement", "any", "anynonarray", "anycompatible", "anycompatiblenonarray"}
)


@cache
def takes_a_row(name: str) -> bool:
    """Whether a built-in function of this name can be called with one row, as `row.name` does."""
    return any(each.takes(1) and each.arguments and each.arguments[0] in _ROW_TYPES for each in builtin(name))


def is_aggregate(name: str) -> bool:
    return any(overload.kind == "a" for overload in builtin(name))


def is_window(name: str) -> bool:
    return any(overload.kind == "w" for overload in builtin(name))


def is_volatile(name: str) -> bool:
    """Whether a function of this name may answer otherwise at the next call; true as well of one that is not built in."""
    return any(overload.volatility == "v" for overload in builtin(name)) or not builtin(name)


def returns_set(name: str) -> bool:
    return any(overload.returns_set for overload in builtin(name))


def is_sampling_method(name: str) -> bool:
    """A built-in TABLESAMPLE method. pg_proc lists their handlers as VOLATILE functions; they are no
    calls."""
    return name in {"bernoulli", "system"}


# --- what is refused ----------------------------------------------------------------------------------------

_RUNS_SQL = "it runs SQL text, or a query made from a name, that this policy never sees"
_ACTIVITY = "it shows the statements of other sessions, with the values in them"
_OUTSIDE = "it reaches outside the database"

#: What facts cannot tell, decided by hand: (pattern of the whole name, why it is refused). Applies whatever
#: the function's volatility is and whatever schema it is in, so that a function that some PostgreSQL version
#: or extension declares STABLE, or even IMMUTABLE, is not trusted for it.
REFUSED_BY_NAME: tuple[tuple[str, str], ...] = (
    # XML export: VOLATILE from query text and cursors, STABLE for a table, a schema or the whole database.
    (r"(query|table|schema|database|cursor)_to_xml(schema|_and_xmlschema)?", _RUNS_SQL),
    # Runs its text argument as a query: the lexeme statistics of any column.
    (r"ts_stat", _RUNS_SQL),
    (r"pg_stat_statements.*|pg_stat_monitor.*|pg_store_plans.*|pg_qualstats.*", _ACTIVITY),
    # Unpacks the most common values of pg_statistic_ext_data: sampled column values.
    (r"pg_mcv_list_items", "it shows sampled column values"),
    # Look at a function's body or load its library; made for CREATE FUNCTION alone.
    (r"fmgr_(c|internal|sql)_validator|plpgsql_validator", "it is the server's own hook for CREATE FUNCTION"),
    # Computes a partition hash with the support functions of a table named by OID.
    (r"satisfies_hash_partition", "it is for PostgreSQL's own partition constraints"),
    # Lists a directory of the server's disk.
    (r"pg_tablespace_databases", "it lists a directory of the server"),
    # Large objects: no relation, so no rule of the profile could ever protect them.
    (r"lo_.*|loread|lowrite", "large objects are outside every rule of a profile"),
    # dblink: another connection, or this database again, without the guard.
    (r"dblink.*", "it opens a connection that is not guarded"),
    # tablefunc and xml2: STABLE C functions that run the SQL text, or build a query from the names, they are
    # given.
    (r"crosstab.*|connectby|xpath_table", _RUNS_SQL),
    # Other extensions' functions that do the same, or hand out raw pages, files and the network.
    (r"xslt_process", _OUTSIDE),
    (r"st_estimatedextent|st_estimated_extent|_postgis_stats", "it shows statistics of hidden rows"),
    (r"st_fromgdalraster|st_gdaldrivers", _OUTSIDE),
    (r"get_raw_page|heap_page_item.*|(bt|brin|gin|gist|hash)_page_.*|tuple_data_split", "it shows raw pages"),
    (r"pg_get_wal_(records?|block|fpi|stats).*", "it shows the write-ahead log"),
    (r"pg_file_.*|http|http_.*|urlencode_.*_file", _OUTSIDE),
)

#: STABLE functions that were looked at and may be called, with the doubt that was weighed. Not consulted by
#: the code: whoever reviews a new PostgreSQL version starts from here.
ALLOWED_AFTER_REVIEW: dict[str, str] = {
    "current_setting": "reads settings; a profile's protected ones are refused by name",
    "pg_show_all_settings": "what SHOW ALL shows; superuser-only values are withheld by the server",
    "has_table_privilege": "with its family: only catalog facts, by name",
    "pg_get_viewdef": "with pg_get_ruledef, pg_get_functiondef, pg_get_expr: definitions, not data",
    "pg_get_object_address": "names and OIDs only",
    "to_regclass": "only says whether a name exists, which the catalogs say as well",
    "txid_current": "with pg_current_xact_id: uses up a transaction id, writes nothing a query could see",
    "pg_sequence_parameters": "a sequence's definition, not its counter (pg_sequence_last_value is VOLATILE)",
    "pg_options_to_table": "unpacks the array it is given; arrays with passwords are in restricted catalogs",
    "pg_tablespace_location": "a path, no content",
    "pg_relation_filepath": "a path, no content",
    "pg_config": "how the server was built; only superusers and pg_read_all_settings may execute it",
    "pg_input_is_valid": "with pg_input_error_info: see INPUT_BY_TYPE_NAME for what has to be asked as well",
    "json_populate_record": "the type is an expression in the statement, so its cast is judged there",
    "xpath": "with xmlexists and xmlparse: PostgreSQL gives libxml no file and no network",
    "pg_get_replication_slots": "names and positions of slots, no data from them",
    "pg_listening_channels": "this session's own",
    "ts_debug": "with ts_lexize, ts_headline: dictionaries were read when they were created",
    "pg_column_size": "a function of the value it is given, and masked like any expression over it",
    "pg_event_trigger_ddl_commands": "raises an error outside an event trigger",
}

#: These move a counter or take a lock that outlives a rollback: only with an entry in the profile, and when
#: writing.
_NEEDS_ALLOWLIST = re.compile(r"nextval|setval|currval|lastval|pg_(try_)?advisory_.*")

_REFUSED = re.compile("|".join(f"(?P<r{i}>{pattern})" for i, (pattern, _) in enumerate(REFUSED_BY_NAME)))


def needs_allowlist(name: str) -> bool:
    """Sequence functions and advisory locks: allowed under read_write with a `function_allowlist` entry, else
    refused.

    `forbidden` refuses them too, so that code that forgets to ask here errs on the closed side.
    """
    return _NEEDS_ALLOWLIST.fullmatch(name) is not None


def refused_by_name(name: str) -> str | None:
    """Why a function of this name is refused in whatever schema it is, or None."""
    found = _REFUSED.fullmatch(name)
    if found is None or found.lastgroup is None:
        return None
    return REFUSED_BY_NAME[int(found.lastgroup[1:])][1]


#: What may run SQL by the types that it is given as values, or is part of the machinery below SQL.
_NOT_FOR_QUERIES: tuple[tuple[frozenset[str], str], ...] = (
    (
        frozenset(("array_in", "domain_in", "record_in", "array_recv", "domain_recv", "record_recv")),
        "it runs the input function of a type chosen at run time, and with it a domain's CHECK functions",
    ),
    (
        frozenset(("range_in", "range_recv", "multirange_in", "multirange_recv", "enum_in", "enum_recv")),
        "it reads a value of a type chosen at run time; a cast does the same for a type that can be judged",
    ),
)
#: A built-in function that is VOLATILE and in no group: of a version that nobody has looked at.
_UNKNOWN = Group(
    "unknown",
    (),
    "is VOLATILE and not known to this version of guarddb: it may change data or read anything",
    "refused",
)


@cache
def group_for(name: str, nargs: int | None = None) -> Group | None:
    """The group that decides about a call of a built-in function with `nargs` arguments (None: any number).

    None: it only computes. Where several overloads take that many arguments, one that looks further is enough, because
    the types of the arguments decide and nobody knows those for certain.
    """
    overloads = builtin(name)
    candidates = [each for each in overloads if nargs is None or each.takes(nargs)] or overloads
    volatile = any(each.volatility == "v" for each in candidates)
    group = group_of(name)
    if group is None:
        return _UNKNOWN if volatile else None
    if not volatile and any(each.volatility == "v" for each in overloads):
        # ts_rewrite(query, target, substitute) computes; ts_rewrite(query, text) runs the text.
        return None
    return group


@cache
def not_for_queries(name: str, nargs: int | None = None) -> str | None:
    """Why a built-in function is no function for queries at all (input functions, parts of aggregates), or None."""
    overloads = builtin(name)
    candidates = [each for each in overloads if nargs is None or each.takes(nargs)] or overloads
    for names, reason in _NOT_FOR_QUERIES:
        if name in names:
            return reason
    if any("internal" in each.arguments for each in candidates):
        return "it is a part of the server that only the server itself calls"
    if any("cstring" in each.arguments for each in candidates):
        return "it is the input function of a type, which only the server itself calls; a cast does the same"
    return None


@cache
def forbidden(name: str, nargs: int | None = None) -> str | None:
    """Why some policy or every policy refuses a call of `name` with `nargs` arguments, or None when none does.

    The reason completes "function f is refused: …". None is no permission: a name that is not a built-in one
    (`builtin(name)` is empty) is for the catalog to judge.
    """
    if reason := refused_by_name(name):
        return reason
    group = group_for(name, nargs)
    if group is not None and group.standing != "passes":
        return f"it {group.what}"
    return not_for_queries(name, nargs)


#: What the views of information_schema are made with: IMMUTABLE or STABLE SQL functions over their arguments.
INFORMATION_SCHEMA = frozenset(
    {
        "_pg_char_max_length",
        "_pg_char_octet_length",
        "_pg_datetime_precision",
        "_pg_expandarray",
        "_pg_index_position",
        "_pg_interval_type",
        "_pg_numeric_precision",
        "_pg_numeric_precision_radix",
        "_pg_numeric_scale",
        "_pg_truetypid",
        "_pg_truetypmod",
    }
)

#: They run the input function of the type that their second argument names: harmless for a built-in type, but
#: a domain's CHECK may call any function. Refuse them when that argument is not a constant, or names a domain
#: whose CHECK calls a function that the agent may not call.
INPUT_BY_TYPE_NAME = frozenset({"pg_input_is_valid", "pg_input_error_info"})

#: They render a value as JSON, and for a value of a user's type they call that type's cast to json, if there
#: is one.
RUNS_JSON_CAST = frozenset(
    name
    for stem in ("json", "jsonb")
    for name in (
        f"to_{stem}",
        f"{stem}_agg",
        f"{stem}_agg_strict",
        f"{stem}_build_array",
        f"{stem}_build_object",
        f"{stem}_object_agg",
        f"{stem}_object_agg_strict",
        f"{stem}_object_agg_unique",
        f"{stem}_object_agg_unique_strict",
    )
) | {"row_to_json", "array_to_json"}


# --- what cannot raise --------------------------------------------------------------------------------------

#: Functions that return for every value of these argument types, so that one may run on a row that a filter
#: hides without an error telling of it. Short on purpose, since being left out costs only a fence around the
#: condition. Left out are: abs(int4) (overflow), date_trunc and extract (unknown unit), lower and upper
#: (memory on very long text, ICU errors), bit_length (overflow), length(path) (float overflow), strpos and
#: starts_with (nondeterministic collations), everything on json (its text may hold escapes that have no
#: character), arithmetic, and all casts.
_CANNOT_RAISE: dict[str, frozenset[tuple[str, ...]]] = {
    name: frozenset(tuple(signature.split()) for signature in signatures)
    for name, signatures in {
        "now": ("",),
        "transaction_timestamp": ("",),
        "statement_timestamp": ("",),
        "clock_timestamp": ("",),
        "current_database": ("",),
        "char_length": ("text", "bpchar"),
        "character_length": ("text", "bpchar"),
        "length": ("text", "bpchar", "bytea", "bit", "tsvector"),
        "octet_length": ("text", "bpchar", "bytea", "bit"),
        "abs": ("float4", "float8", "numeric"),
        "sign": ("float8", "numeric"),
        "isfinite": ("date", "timestamp", "timestamptz", "interval"),
        "date": ("timestamp", "timestamptz"),
        "cardinality": ("anyarray",),
        "array_ndims": ("anyarray",),
        "array_length": ("anyarray int4",),
        "array_lower": ("anyarray int4",),
        "array_upper": ("anyarray int4",),
        "jsonb_typeof": ("jsonb",),
        "isempty": ("anyrange", "anymultirange"),
        "left": ("text int4",),
    }.items()
}


def cannot_raise(name: str, nargs: int, types: tuple[str, ...] | None = None) -> bool:
    """Whether a call of this built-in function returns for every input, given that its arguments did.

    Pass `types`, the arguments' pg_catalog type names, where they are known. Without them every overload that
    takes `nargs` arguments must be safe, and the name must not be a type's: `date(x)` on text is a cast, and
    casts raise.
    """
    safe = _CANNOT_RAISE.get(name)
    if safe is None:
        return False
    if types is not None:
        return len(types) == nargs and tuple(map(_signature_type, types)) in safe
    if builtin_type(name) is not None:
        return False
    candidates = [each for each in builtin(name) if each.takes(nargs)]
    return bool(candidates) and all(each.arguments in safe for each in candidates)


def _signature_type(name: str) -> str:
    """The declared type that an argument of this type is taken as, without a conversion that could raise."""
    known = builtin_type(name)
    if name in {"varchar", "name"}:
        return "text"
    if name == "varbit":
        return "bit"
    if known is not None and known.kind == "r":
        return "anyrange"
    if known is not None and known.kind == "m":
        return "anymultirange"
    return "anyarray" if known is not None and known.element is not None else name
