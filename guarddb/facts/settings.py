"""What follows a setting of the session: how a value is read and printed, and what an expression gives.

pg_proc does not tell: the output functions of float and bytea are IMMUTABLE there and follow a setting all the same. So this is
written down by type and by function, from the manual's chapter on client connection defaults and the sources (guc_tables.c).
"""

from __future__ import annotations

from guarddb.facts.functions import builtin, builtin_type

_TIME = frozenset(("timezone", "timezone_abbreviations", "datestyle", "intervalstyle"))
_LOCALE = frozenset(("lc_time", "lc_numeric", "lc_monetary"))
SEARCH = frozenset(("default_text_search_config",))
XML = frozenset(("xmloption", "xmlbinary"))

#: pg_catalog type -> settings that its text, its input or its operators follow.
_OF_TYPE: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            "date",
            "time",
            "timetz",
            "timestamp",
            "timestamptz",
            "interval",
            "tsrange",
            "tstzrange",
            "daterange",
            "tsmultirange",
            "tstzmultirange",
            "datemultirange",
        ),
        _TIME,
    ),
    **dict.fromkeys(
        ("float4", "float8", "point", "line", "lseg", "box", "path", "polygon", "circle"),
        frozenset(("extra_float_digits",)),
    ),
    "bytea": frozenset(("bytea_output",)),
    "money": frozenset(("lc_monetary",)),
    "xml": XML,
    **dict.fromkeys(("tsvector", "tsquery", "regconfig", "regdictionary"), SEARCH),
}
#: Functions whose arguments do not tell what they follow.
_OF_FUNCTION: dict[str, frozenset[str]] = {
    "to_char": _TIME | _LOCALE,
    "to_date": _TIME | _LOCALE,
    "to_timestamp": _TIME | _LOCALE,
    "to_number": _LOCALE,
}
#: Everything above: of what nobody knows, all of it may count.
ALL: frozenset[str] = frozenset().union(*_OF_TYPE.values(), _LOCALE, ("array_nulls", "transform_null_equals"))


def of_type(qualified: str) -> frozenset[str]:
    """The settings that a type follows, by its qualified name; of a type that users made, all of them (but for an enum, which
    the caller has to tell)."""
    schema, _, name = qualified.partition(".")
    if schema != "pg_catalog":
        return ALL
    known = builtin_type(name)
    if known is not None and known.element is not None:
        return of_type(f"pg_catalog.{known.element}") | {"array_nulls"}
    return _OF_TYPE.get(name, frozenset())


def of_function(name: str) -> frozenset[str]:
    """The settings that a built-in function of this name may follow. Of one that is not built in, all of them."""
    if name in _OF_FUNCTION:
        return _OF_FUNCTION[name]
    overloads = builtin(name)
    if not overloads:
        return ALL
    found: frozenset[str] = frozenset()
    for each in overloads:
        if each.volatility == "i":
            continue  # what it follows, its arguments' types do
        for type_ in (*each.arguments, each.returns):
            found |= _OF_TYPE.get(type_, frozenset())
    return found


#: By which a constant in a view's definition is read otherwise than it was printed; a view over a filtered table is written out.
OF_DEFINITIONS: frozenset[str] = frozenset(("array_nulls", "lc_monetary"))
#: Of current_date and its kin.
CLOCK = _TIME
#: All that a filter or a hash may follow.
FOLLOWED: frozenset[str] = ALL | OF_DEFINITIONS | CLOCK | SEARCH | XML

#: They say which code is loaded and which program is run, or what of it all is written to a log. No profile opens them.
CLOSED: frozenset[str] = frozenset(
    (
        "allow_in_place_tablespaces",
        "allow_system_table_mods",
        "archive_cleanup_command",
        "archive_command",
        "archive_library",
        "dynamic_library_path",
        "event_triggers",
        # (These two make the server go on with pages that are broken, and zero them.)
        "ignore_checksum_failure",
        "zero_damaged_pages",
        "extension_control_path",
        "jit_provider",
        "lo_compat_privileges",
        "local_preload_libraries",
        "oauth_validator_libraries",
        "plperl.on_init",
        "plperl.on_plperl_init",
        "plperl.on_plperlu_init",
        "pltcl.start_proc",
        "pltclu.start_proc",
        "recovery_end_command",
        "restore_command",
        "session_preload_libraries",
        "shared_preload_libraries",
        "ssl_passphrase_command",
        "track_activities",
        "trace_notify",
    )
)
_CLOSED_PREFIXES = ("log_", "logging_", "syslog_", "debug_")
_CLOSED_EXTENSIONS = ("pgaudit.", "auto_explain.", "pg_stat_statements.", "supautils.")


def is_closed(name: str) -> bool:
    """Whether a setting loads code, runs programs, or says what is logged."""
    # (A name with a dot is an extension's, or one that somebody has thought of.)
    own = "." not in name and name.startswith(_CLOSED_PREFIXES)
    return own or name in CLOSED or name.startswith(_CLOSED_EXTENSIONS)


#: PostgreSQL shows these to superusers (and pg_read_all_settings) only: asked of servers 16 and 18, as a role without rights.
SHOWN_TO_SUPERUSERS: frozenset[str] = frozenset(
    (
        "config_file",
        "data_directory",
        "dynamic_library_path",
        "extension_control_path",
        "external_pid_file",
        "hba_file",
        "ident_file",
        "jit_provider",
        "krb_server_keyfile",
        "log_directory",
        "log_filename",
        "oauth_validator_libraries",
        "primary_conninfo",
        "session_preload_libraries",
        "shared_preload_libraries",
        "ssl_ciphers",
        "ssl_dh_params_file",
        "ssl_ecdh_curve",
        "ssl_groups",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "ssl_passphrase_command",
        "ssl_tls13_ciphers",
        "unix_socket_directories",
    )
)
#: Of these, what may hold a password. No policy shows it.
SECRET: frozenset[str] = frozenset(("primary_conninfo", "ssl_passphrase_command"))
