"""Whatever a script is made of, the lint answers, and its safe form is a script again."""

from __future__ import annotations

from guarddb.lint.finding import SEVERITIES, Finding
from guarddb.lint.fix import fix
from guarddb.lint.migrations import lint
from guarddb.tree import parse
from tests.lint.conftest import World
from tests.lint.statements import all_statements
from tests.searching import given, settings, st

CONTROL = [
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "ROLLBACK TO s",
    "RELEASE s",
    "COMMIT AND CHAIN",
    "SET lock_timeout = '1s'",
    "SET search_path = archive, public",
    "UPDATE orders SET note = 'x'",
    "DO $$ BEGIN END $$",
]

scripts = st.lists(
    st.one_of(st.sampled_from(all_statements()), st.sampled_from(CONTROL)), min_size=1, max_size=8
).map(";\n".join)


@settings(max_examples=150)
@given(script=scripts, with_catalog=st.booleans(), in_transaction=st.booleans())
def test_every_script_gets_an_answer(
    world: World, script: str, with_catalog: bool, in_transaction: bool
) -> None:
    catalog = world.catalog if with_catalog else None
    findings = lint(script, catalog, in_transaction=in_transaction)
    for finding in findings:
        assert finding.severity in SEVERITIES
        assert finding.rule.replace("_", "").isalpha()
        assert finding.message
        assert finding.statement is None or finding.statement in script
        assert Finding.from_dict(finding.to_dict()) == finding
        if finding.hint is not None:
            parse(finding.hint, checked=False)  # runnable: it is SQL
    done = fix(script, catalog, in_transaction=in_transaction)
    parse(done.sql, checked=False)
    assert lint(script, catalog, in_transaction=in_transaction) == findings


@settings(max_examples=60)
@given(script=scripts)
def test_what_is_safe_once_is_safe_after_comments_and_spaces(world: World, script: str) -> None:
    """Layout and letter case of keywords change nothing."""
    spaced = "/* first */ " + script.replace(";\n", " ;\n\n-- then\n") + "\n-- end"
    rules = [(f.severity, f.rule) for f in lint(script, world.catalog)]
    assert [(f.severity, f.rule) for f in lint(spaced, world.catalog)] == rules
