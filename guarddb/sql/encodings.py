"""Where a database that is not UTF-8 reads another text than the parser here, which always reads UTF-8.

PostgreSQL cuts an identifier to 63 bytes of the database's encoding, and in a single-byte encoding it folds letters beyond ASCII
(scansup.c: truncate_identifier, downcase_identifier). So the same text could name another object there.
"""

from __future__ import annotations

from pglast import parser

#: NAMEDATALEN - 1
_MOST_BYTES = 63


def read_otherwise(sql: str, encoding: str) -> str | None:
    """The first identifier that a database of this encoding may read as another name; None where there is none.

    >>> read_otherwise('SELECT "ä"', "LATIN1") is None
    True
    >>> read_otherwise("SELECT Ä", "LATIN1")
    'Ä'
    """
    if encoding == "UTF8" or sql.isascii():
        return None
    for token in parser.scan(sql):
        if token.name not in ("IDENT", "UIDENT"):
            continue
        text = sql[token.start : token.end + 1]
        if not text.isascii() and ('"' not in text or len(text.encode()) > _MOST_BYTES):
            return text
    return None
