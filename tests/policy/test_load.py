"""Where a profile is loaded from, and how a file that is no profile is told."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest

from guarddb.policy import PolicyError, PolicyProfile, load_policy
from guarddb.policy.load import MAX_FILE_BYTES
from tests.searching import given, settings, st

EXAMPLES = Path(__file__).parents[2] / "examples" / "policies"


def write(directory: Path, name: str, text: str | bytes) -> Path:
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_loads(path: Path) -> None:
    assert load_policy(path).name


def test_the_three_formats_mean_the_same(tmp_path: Path) -> None:
    document = {
        "name": "p",
        "max_rows": 5,
        "approval_mode": "off",
        "masking_rules": [{"table": "t", "column": "c", "kind": "null"}],
        "guarddb": {"settings": {"a.b": 1.5}},
    }
    expected = PolicyProfile(**document)
    yaml = """
name: p
max_rows: 5
approval_mode: off
masking_rules: [{table: t, column: c, kind: null}]
guarddb: {settings: {a.b: 1.5}}
"""
    toml = """
name = "p"
max_rows = 5
approval_mode = "off"
masking_rules = [{table = "t", column = "c", kind = "null"}]
[guarddb.settings]
"a.b" = 1.5
"""
    for name, text in {"p.yaml": yaml, "p.YML": yaml, "p.json": json.dumps(document), "p.toml": toml}.items():
        assert load_policy(write(tmp_path, name, text)) == expected
        assert load_policy(str(write(tmp_path, "no_suffix", text))) == expected
    assert load_policy(document) == expected
    assert load_policy(expected) is expected


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    assert load_policy(write(tmp_path, "p.json", b"\xef\xbb\xbf" + b'{"name": "p"}')).name == "p"


@pytest.mark.parametrize(
    "word",
    ["off", "on", "yes", "no", "y", "n", "Off", "NO", "2024-01-01", "1:30", "010", "0x1f", "1_000", "="],
)
def test_yaml_words_that_are_texts_stay_texts(tmp_path: Path, word: str) -> None:
    assert load_policy(write(tmp_path, "p.yaml", f"name: {word}\n")).name == word


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.yaml", "name: p\nmax_rows: [1\n", "line 3"),
        ("p.yaml", "name: p\nname: q\n", "twice"),
        ("p.yaml", "name: p\nguarddb: {settings: {a: 1, a: 2}}\n", "twice"),
        ("p.yaml", "? [a]\n: b\n", "line 1"),
        ("p.yaml", "name: p\n---\nname: q\n", "YAML"),
        ("p.yaml", "- name\n", "must be a mapping of fields; it holds a list"),
        ("p.yaml", "just text\n", "must be a mapping of fields"),
        ("p.yaml", "", "it holds nothing"),
        ("p.yaml", "name: *missing\n", "line 1"),
        ("p.yaml", "name: !!python/object:os.system x\n", "YAML"),
        ("p.yaml", "name: p\n1: x\n", "not a text"),
        ("p.yaml", "name: \x01\n", "line 1"),
        ("p.yaml", "a: &a {max_rows: 1}\nname: p\n<<: *a\n", "<<"),
        ("p.yaml", "name: !!timestamp x\n", "line 1"),
        ("p.yaml", "name: !!bool x\n", "tag"),
        ("p.yaml", "name: !!int ''\n", "tag"),
        ("p.yaml", "!!seq name: x\n", "YAML"),
        ("p.yaml", "a: &a {max_rows: 1}\nname: p\n!!merge x: *a\n", "line 3"),
        ("p.yaml", "name: " + "[" * 5000, "deep"),
        ("p.yaml", "max_rows: " + "9" * 5000, "cannot be read"),
        ("p.json", '{"name": "p",}', "line 1"),
        ("p.json", '{"name": "p", "name": "q"}', "twice"),
        ("p.json", '{"name": "p", "max_rows": NaN}', "NaN"),
        ("p.json", "[" * 100_000, "deep"),
        ("p.json", '{"name": "\\ud800"}', "Unicode"),
        ("p.json", "[]", "must be a mapping"),
        ("p.toml", "name = p", "TOML"),
        ("p.toml", 'name = "p"\nname = "q"', "TOML"),
        ("p.toml", "a = " + "[" * 5000, "deep"),
        ("p.yaml", "masking_rule: []\nname: p\n", "masking_rules"),
        ("p.yaml", b"name: \xff\n", "UTF-8"),
        ("p.yaml", b"#" * (MAX_FILE_BYTES + 1), "larger than"),
    ],
)  # fmt: skip
def test_a_bad_file_is_told_in_a_sentence(tmp_path: Path, name: str, text: str | bytes, words: str) -> None:
    assert words in refusal(write(tmp_path, name, text))


def test_a_bomb_of_aliases_goes_off_in_no_message(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    message = refusal(write(tmp_path, "p.yaml", "\n".join([*lines, "name: *a39", "table_allowlist: *a39"])))
    assert len(message) < 20_000


def test_what_is_not_a_readable_file_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "missing.yaml")
    assert "directory" in refusal(tmp_path)
    for odd in ("a\0b", "name: p\nmax_rows: 1", "", "x" * 5000, "\ud800"):
        with pytest.raises(PolicyError):
            load_policy(odd)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://x/v1/projects/prj_1/policies/pol_1", "plain http to x"),
        ("HTTP://x/pol_1", "plain http to x"),
        ("https://user:secret@x/pol_1", "must not hold a password"),
        ("https:///pol_1", "names no host"),
        ("https://x:99999999/pol_1", "cannot be read"),
        ("https://[::1/pol_1", "cannot be read"),
    ],
)
def test_a_url_that_would_show_the_key_or_leads_nowhere_is_refused(url: str, told: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(told)) as caught:
        load_policy(url)
    assert "secret" not in str(caught.value)


def test_other_urls_and_types_are_refused() -> None:
    for odd in ("ftp://x/p.yaml", None, 5, [], b"p.yaml"):
        with pytest.raises(PolicyError):
            load_policy(odd)  # type: ignore[arg-type]


YAML_TOKENS = """name max_rows : - p 1 [ ] { } , &a *a !! | > " ' # << ? --- !!binary !!set
    !!omap !!pairs !!timestamp !!int !!bool !!float !!merge !!seq !!map !!null = null %""".split()  # noqa: SIM905
YAMLISH = st.lists(st.sampled_from([*YAML_TOKENS, " ", "\n", "\t"]), max_size=20).map(
    lambda parts: "".join(parts).encode()
)


@settings(max_examples=200)
@given(st.binary(max_size=60) | YAMLISH, st.sampled_from([".yaml", ".json", ".toml", ""]))
def test_no_file_raises_anything_but_policy_error(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = write(tmp_path, f"p{suffix}", data)
    with contextlib.suppress(PolicyError):
        load_policy(path)
