"""Conditions of custom rules: SQL boolean expressions over an event, parsed by PostgreSQL's parser and evaluated by a small
closed evaluator.

What can stand in one is listed here and nowhere else: names, numbers, texts, booleans, comparisons, AND OR NOT, IN, BETWEEN,
IS NULL, LIKE, arithmetic and four functions. Anything else is an error when the policy loads. Evaluation never raises and
never loops: each node of the expression is computed once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol, TypeAlias
from zoneinfo import ZoneInfo

from pglast import parser

from guarddb.policy.errors import PolicyError, quoted
from guarddb.risk.folding import Folded, fold
from guarddb.risk.like import BadPattern, like
from guarddb.risk.patterns import Action, ActionPattern
from guarddb.risk.values import Unknown, arithmetic, both, compare, either, moment, negated, number
from guarddb.tree import Node, SQLSyntaxError, parse

#: Bounds of one condition: bytes of text, levels of nesting, entries of one IN list.
MAX_BYTES = 16_384
MAX_LEVELS = 64
MAX_LIST = 1_000
#: PostgreSQL's parser cuts longer names off (NAMEDATALEN - 1), and the condition would be about another name.
_MAX_NAME_BYTES = 63
#: Digits and exponent of a number in a condition.
_MAX_DIGITS, _MAX_EXPONENT = 400, 400

_PREFIX = "SELECT "
_COMPARISONS = {"=": "=", "==": "=", "<>": "<>", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_ARITHMETIC = frozenset("+-*/")
_FUNCTIONS = "hour(timestamp), weekday(timestamp), count(list), matches('domain:scope:verb')"
_EXPONENT = re.compile(r"[eE]([-+]?\d+)\Z")


class Facts(Protocol):
    """What a condition is asked about."""

    @property
    def action(self) -> Action:
        """The event's action, for matches() and `action LIKE`."""
        ...

    def value(self, name: tuple[str, ...]) -> Any:
        """The value under a dotted name in folded letters; raises KeyError when the event has none."""
        ...


class Evaluation:
    """One evaluation of one condition: the event, and why something in it is unknown."""

    __slots__ = ("facts", "reasons", "timezone")

    def __init__(self, facts: Facts, timezone: ZoneInfo | None) -> None:
        self.facts = facts
        self.timezone = timezone
        self.reasons: list[str] = []


_Compute: TypeAlias = Callable[[Evaluation], Any]


@dataclass(frozen=True, slots=True)
class Condition:
    """A checked condition.

    Attributes:
        text: as the policy spells it.
        names: the dotted names it reads, in folded letters.
        clock: it reads the time only through hour() and weekday().
    """

    text: str
    names: frozenset[tuple[str, ...]]
    clock: bool
    _compute: _Compute = field(repr=False, compare=False)

    def evaluate(self, facts: Facts, timezone: ZoneInfo | None = None) -> tuple[bool | None, tuple[str, ...]]:
        """True, false, or None for unknown; and why it is unknown."""
        evaluation = Evaluation(facts, timezone)
        value = self._compute(evaluation)
        if value is not None and not isinstance(value, bool):
            value = None
            evaluation.reasons.append("its value is not a boolean")
        if value is not None:
            return value, ()
        return None, tuple(dict.fromkeys(evaluation.reasons)) or ("a NULL in it",)


def parse_condition(text: str) -> Condition:
    """Check a condition and make it ready.

    Raises:
        PolicyError: it is not an expression that conditions may be, or over a bound.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise PolicyError(f"has {size} bytes; the limit is {MAX_BYTES}")
    if not text.strip():
        raise PolicyError("is empty")
    root = _expression(text)
    _check_depth(root)
    compiler = _Compiler()
    compute = compiler.condition(root)
    return Condition(text, frozenset(compiler.names), not compiler.reads_time, compute)


def _expression(text: str) -> Node:
    try:
        bare = _only_target(parse(f"{_PREFIX}\n{text}\n"))
        # Once more in parentheses: a target list takes `ALL x` as well, which is no expression.
        node = _only_target(parse(f"{_PREFIX}(\n{text}\n)"))
        tokens = parser.scan(text)
    except SQLSyntaxError as ex:
        raise PolicyError(f"is not a condition: {_one_line(str(ex))}{_place(ex, text)}") from None
    except (parser.ParseError, ValueError, RecursionError) as ex:
        raise PolicyError(f"is not a condition: {_one_line(str(ex))}") from None
    if bare is None or node is None or bare.keys() != node.keys():
        raise PolicyError("must be one boolean expression")
    open_parentheses = 0
    for token in tokens:
        open_parentheses += {"ASCII_40": 1, "ASCII_41": -1}.get(token.name, 0)
        if open_parentheses > MAX_LEVELS:
            raise PolicyError(_TOO_DEEP)
        if token.name in ("IDENT", "UIDENT"):
            if len(text[token.start : token.end + 1].encode()) > _MAX_NAME_BYTES:
                raise PolicyError(f"holds a name of more than {_MAX_NAME_BYTES} bytes")
    return node


def _only_target(statements: list[Node]) -> Node | None:
    """The one expression of `SELECT expression`."""
    if len(statements) != 1:
        return None
    select = statements[0]["stmt"].get("SelectStmt")
    if select is None or select.get("op") != "SETOP_NONE":
        return None
    if select.keys() - {"targetList", "limitOption", "op"}:
        return None
    targets = select.get("targetList", [])
    if len(targets) != 1 or targets[0]["ResTarget"].keys() - {"val", "location"}:
        return None
    node: Node = targets[0]["ResTarget"]["val"]
    return node


def _place(error: SQLSyntaxError, text: str) -> str:
    start = len(_PREFIX) + 1
    if error.position is None or not start <= error.position < start + len(text):
        return ""
    return f" (character {error.position - start + 1})"


def _one_line(text: str) -> str:
    return quoted(" ".join(text.split()), 200)[1:-1]


def _check_depth(root: Node) -> None:
    """Refuse more than MAX_LEVELS of nesting; iteratively, since what it protects is the recursion that follows."""
    stack: list[tuple[Any, int]] = [(root, 0)]
    while stack:
        value, level = stack.pop()
        if isinstance(value, list):
            stack.extend((item, level) for item in value)
        elif isinstance(value, dict):
            for name, fields in value.items():
                deeper = level + (name in _LEVELS)
                if deeper > MAX_LEVELS:
                    raise PolicyError(_TOO_DEEP)
                stack.append((fields, deeper))


_TOO_DEEP = f"nests more than {MAX_LEVELS} levels deep"
_LEVELS = frozenset(("A_Expr", "BoolExpr", "NullTest", "FuncCall", "SubLink", "CaseExpr", "TypeCast"))

#: Nodes that are refused, and how the message calls them; what is not here is called by PostgreSQL's name.
_REFUSED = {
    "SubLink": "a subquery",
    "TypeCast": "a cast",
    "CaseExpr": "CASE",
    "ParamRef": "a parameter ($1)",
    "RowExpr": "a row",
    "A_ArrayExpr": "an array",
    "A_Indirection": "a subscript or a field of an expression",
    "CoalesceExpr": "COALESCE",
    "MinMaxExpr": "GREATEST or LEAST",
    "BooleanTest": "IS TRUE, IS FALSE or IS UNKNOWN",
    "SQLValueFunction": "a value of the database session (user, current_date …; a parameter of that name is "
    "parameters.<name>)",
    "CollateClause": "COLLATE",
    "SetToDefault": "DEFAULT",
}


class _Compiler:
    """From the parser's nodes to functions of an evaluation, and a note of the names on the way."""

    def __init__(self) -> None:
        self.names: set[tuple[str, ...]] = set()
        self.reads_time = False

    def condition(self, root: Node) -> _Compute:
        name = next(iter(root))
        fields = root[name]
        is_value = (name == "A_Const" and not fields.keys() & {"boolval", "isnull"}) or (
            name == "A_Expr" and fields.get("kind") == "AEXPR_OP" and _symbol(fields) in _ARITHMETIC
        )
        if is_value or (name == "FuncCall" and _function(fields) in ("hour", "weekday", "count")):
            raise PolicyError("must be a condition that is true or false; this is a value")
        return self.any(root)

    def any(self, node: Node) -> _Compute:
        ((name, fields),) = node.items()
        reader = getattr(self, f"_{name}", None)
        if reader is None:
            raise PolicyError(f"holds {_REFUSED.get(name, name)}, which conditions cannot use")
        compute: _Compute = reader(fields)
        return compute

    # ---------------------------------------------------------------- leaves

    def _A_Const(self, fields: Node) -> _Compute:
        value = _literal(fields)
        return lambda _: value

    def _ColumnRef(self, fields: Node) -> _Compute:
        name = self._name(fields)
        self.names.add(name)
        if name == ("timestamp",):
            self.reads_time = True
        shown = ".".join(name)

        def read(evaluation: Evaluation) -> Any:
            try:
                value = evaluation.facts.value(name)
            except KeyError:
                evaluation.reasons.append(f"the event has no {shown}")
                return None
            if isinstance(value, str | bool) or type(value) is int:
                return value
            if isinstance(value, int | float):
                exact = number(value)
                if exact is None:
                    evaluation.reasons.append(f"{shown} is no finite number")
                return exact
            if value is None:
                evaluation.reasons.append(f"{shown} is null")
            return value

        return read

    def _name(self, fields: Node) -> tuple[str, ...]:
        parts = []
        for part in fields["fields"]:
            if "String" not in part:
                raise PolicyError("holds *, which conditions cannot use")
            parts.append(fold(str(part["String"].get("sval", ""))))
        return tuple(parts)

    # ---------------------------------------------------------------- logic

    def _BoolExpr(self, fields: Node) -> _Compute:
        operator = fields.get("boolop", "AND_EXPR")
        arguments = [_boolean(self.any(argument)) for argument in fields["args"]]
        if operator == "NOT_EXPR":
            (argument,) = arguments
            return lambda evaluation: negated(argument(evaluation))
        combine = both if operator == "AND_EXPR" else either
        return lambda evaluation: combine([argument(evaluation) for argument in arguments])

    def _NullTest(self, fields: Node) -> _Compute:
        if fields.get("argisrow"):
            raise PolicyError("holds a row, which conditions cannot use")
        argument = self.any(fields["arg"])
        wanted = fields.get("nulltesttype", "IS_NULL") == "IS_NULL"

        def test(evaluation: Evaluation) -> bool:
            # That it is missing is the question here, and no reason for not knowing.
            reasons = len(evaluation.reasons)
            value = argument(evaluation)
            del evaluation.reasons[reasons:]
            return (value is None) is wanted

        return test

    # ---------------------------------------------------------------- operators

    def _A_Expr(self, fields: Node) -> _Compute:
        reader = getattr(self, f"_{fields.get('kind', 'AEXPR_OP')}", None)
        if reader is None:
            raise PolicyError(
                f"holds {_EXPRESSIONS.get(fields['kind'], fields['kind'])}, which conditions cannot use"
            )
        compute: _Compute = reader(fields)
        return compute

    def _AEXPR_OP(self, fields: Node) -> _Compute:
        symbol = _symbol(fields)
        right = self.any(fields["rexpr"])
        if "lexpr" not in fields:
            if symbol not in ("+", "-"):
                raise PolicyError(f"holds the operator {quoted(symbol)}, which conditions cannot use")
            return _guarded(lambda evaluation: arithmetic(symbol, 0, right(evaluation)))
        left = self.any(fields["lexpr"])
        if symbol in _ARITHMETIC:
            return _guarded(lambda evaluation: arithmetic(symbol, left(evaluation), right(evaluation)))
        if symbol not in _COMPARISONS:
            raise PolicyError(f"holds the operator {quoted(symbol)}, which conditions cannot use")
        return _comparison(_COMPARISONS[symbol], left, right)

    def _AEXPR_IN(self, fields: Node) -> _Compute:
        items = fields["rexpr"].get("List", {}).get("items", [])
        if len(items) > MAX_LIST:
            raise PolicyError(f"holds a list of {len(items)} entries; the limit is {MAX_LIST}")
        left = self.any(fields["lexpr"])
        entries = [self.any(item) for item in items]
        isin = _symbol(fields) == "="

        def test(evaluation: Evaluation) -> bool | None:
            value = left(evaluation)
            equal: list[bool | None] = []
            for entry in entries:
                try:
                    equal.append(compare("=", value, entry(evaluation)))
                except Unknown as ex:
                    evaluation.reasons.append(str(ex))
                    equal.append(None)
            found = either(equal)
            return found if isin else negated(found)

        return test

    def _AEXPR_BETWEEN(self, fields: Node) -> _Compute:
        low, high = fields["rexpr"]["List"]["items"]
        value = self.any(fields["lexpr"])
        above = _comparison(">=", value, self.any(low))
        below = _comparison("<=", value, self.any(high))
        return lambda evaluation: both([above(evaluation), below(evaluation)])

    def _AEXPR_NOT_BETWEEN(self, fields: Node) -> _Compute:
        between = self._AEXPR_BETWEEN(fields)
        return lambda evaluation: negated(between(evaluation))

    def _AEXPR_LIKE(self, fields: Node) -> _Compute:
        isin = _symbol(fields) == "~~"
        left, right = fields["lexpr"], fields["rexpr"]
        literal = _literal(right["A_Const"]) if "A_Const" in right else None
        matches: _Compute
        if isinstance(literal, str) and _is_action(left) and "*" in literal:
            self.names.add(("action",))
            pattern = ActionPattern(literal)
            matches = lambda evaluation: pattern.matches(evaluation.facts.action)  # noqa: E731
        else:
            if isinstance(literal, str):
                _like(literal)
            matches = _likeness(self.any(left), self.any(right))
        return matches if isin else lambda evaluation: negated(matches(evaluation))

    # ---------------------------------------------------------------- functions

    def _FuncCall(self, fields: Node) -> _Compute:
        name = _function(fields)
        builder = _CALLS.get(name)
        if builder is None:
            raise PolicyError(
                f"calls {quoted(name)}, which is not a function of conditions; these are: {_FUNCTIONS}"
            )
        arguments = fields.get("args", [])
        if len(arguments) != 1 or fields.keys() - {"funcname", "args", "funcformat", "location"}:
            raise PolicyError(f"calls {name}() in another way than with one argument")
        (argument,) = arguments
        return builder(self, argument)

    def hour(self, argument: Node) -> _Compute:
        return self._of_time(argument, lambda time: time.hour)

    def weekday(self, argument: Node) -> _Compute:
        return self._of_time(argument, lambda time: time.isoweekday())

    def _of_time(self, argument: Node, part: Callable[[Any], int]) -> _Compute:
        reads_time = self.reads_time
        value = self.any(argument)
        self.reads_time = reads_time

        def compute(evaluation: Evaluation) -> int | None:
            given = value(evaluation)
            if given is None:
                return None
            time = moment(given)
            if evaluation.timezone is not None:
                try:
                    time = time.astimezone(evaluation.timezone)
                except (OverflowError, ValueError):
                    raise Unknown("a time is out of range") from None
            return part(time)

        return _guarded(compute)

    def count(self, argument: Node) -> _Compute:
        if "ColumnRef" not in argument:
            raise PolicyError("calls count() of something else than a list of the event")
        name = self._name(argument["ColumnRef"])
        self.names.add(name)

        def compute(evaluation: Evaluation) -> int:
            try:
                value = evaluation.facts.value(name)
            except KeyError:
                return 0
            if value is None:
                return 0
            if not isinstance(value, list | tuple):
                raise Unknown(f"{'.'.join(name)} is no list")
            return len(value)

        return _guarded(compute)

    def matches(self, argument: Node) -> _Compute:
        literal = _literal(argument["A_Const"]) if "A_Const" in argument else None
        if not isinstance(literal, str):
            raise PolicyError("calls matches() with something else than an action glob as a quoted text")
        pattern = ActionPattern(literal)
        self.names.add(("action",))
        return lambda evaluation: pattern.matches(evaluation.facts.action)


_CALLS: dict[str, Callable[[_Compiler, Node], _Compute]] = {
    "hour": _Compiler.hour,
    "weekday": _Compiler.weekday,
    "count": _Compiler.count,
    "matches": _Compiler.matches,
}
_EXPRESSIONS = {
    "AEXPR_OP_ANY": "ANY",
    "AEXPR_OP_ALL": "ALL",
    "AEXPR_DISTINCT": "IS DISTINCT FROM",
    "AEXPR_NOT_DISTINCT": "IS NOT DISTINCT FROM",
    "AEXPR_NULLIF": "NULLIF",
    "AEXPR_ILIKE": "ILIKE",
    "AEXPR_SIMILAR": "SIMILAR TO",
    "AEXPR_BETWEEN_SYM": "BETWEEN SYMMETRIC",
    "AEXPR_NOT_BETWEEN_SYM": "NOT BETWEEN SYMMETRIC",
}


def _symbol(fields: Node) -> str:
    names = [str(part["String"].get("sval", "")) for part in fields["name"]]
    return ".".join(names)


def _function(fields: Node) -> str:
    return fold(".".join(str(part["String"].get("sval", "")) for part in fields["funcname"]))


def _is_action(node: Node) -> bool:
    fields = node.get("ColumnRef", {}).get("fields", ())
    return len(fields) == 1 and fold(fields[0].get("String", {}).get("sval", "")) == "action"


def _literal(fields: Node) -> bool | int | Fraction | str | None:
    if fields.get("isnull"):
        return None
    if "boolval" in fields:
        return bool(fields["boolval"].get("boolval", False))
    if "ival" in fields:
        return int(fields["ival"].get("ival", 0))
    if "sval" in fields:
        return str(fields["sval"].get("sval", ""))
    if "fval" in fields:
        return _decimal(str(fields["fval"].get("fval", "0")))
    raise PolicyError("holds a bit string, which conditions cannot use")


def _decimal(text: str) -> int | Fraction:
    exponent = _EXPONENT.search(text)
    try:
        if len(text) > _MAX_DIGITS or (exponent and abs(int(exponent[1])) > _MAX_EXPONENT):
            raise PolicyError(f"holds a number of more than {_MAX_DIGITS} digits")
        plain = text.replace("_", "")
        if plain[:2].lower() in ("0x", "0o", "0b"):
            return int(plain, 0)
        value = Fraction(plain)
    except ValueError:
        raise PolicyError(f"holds {quoted(text)}, which is no number") from None
    return value.numerator if value.denominator == 1 else value


def _like(pattern: str) -> Callable[[str], bool]:
    try:
        return like(pattern)
    except BadPattern as ex:
        raise PolicyError(f"holds LIKE {quoted(pattern)}: {ex}") from None


def _guarded(compute: _Compute) -> _Compute:
    """`compute`, with NULL and a reason in place of what cannot be computed."""

    def guarded(evaluation: Evaluation) -> Any:
        try:
            return compute(evaluation)
        except Unknown as ex:
            evaluation.reasons.append(str(ex))
            return None

    return guarded


def _comparison(symbol: str, left: _Compute, right: _Compute) -> _Compute:
    return _guarded(lambda evaluation: compare(symbol, left(evaluation), right(evaluation)))


def _boolean(compute: _Compute) -> _Compute:
    """An operand of AND, OR and NOT."""

    def boolean(evaluation: Evaluation) -> bool | None:
        value = compute(evaluation)
        if value is None or isinstance(value, bool):
            return value
        evaluation.reasons.append("AND, OR and NOT take booleans")
        return None

    return boolean


def _likeness(left: _Compute, right: _Compute) -> _Compute:
    def compute(evaluation: Evaluation) -> bool | None:
        text, pattern = left(evaluation), right(evaluation)
        for value in (text, pattern):
            if value is not None and not isinstance(value, str):
                raise Unknown("LIKE takes texts")
        if text is None or pattern is None:
            return None
        if isinstance(text, Folded) or isinstance(pattern, Folded):
            text, pattern = fold(text), fold(pattern)
        try:
            return like(str(pattern))(str(text))
        except BadPattern as ex:
            raise Unknown(str(ex)) from None

    return _guarded(compute)
