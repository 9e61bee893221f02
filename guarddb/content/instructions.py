"""Texts that speak to a model. Off unless asked for: tickets about injection, prompt libraries and mail tables hold them too."""

from __future__ import annotations

import re
from collections.abc import Iterator

from guarddb.content.finding import Finding

_PHRASES = re.compile(
    r"\b(?:ignore|disregard|forget)\s+(?:all\s+|any\s+|the\s+|your\s+)*(?:previous|prior|above|earlier|preceding)\s+"
    r"(?:instructions?|prompts?|messages?|rules?)\b"
    r"|\b(?:now|then|next|please|must)\s+(?:call|invoke|run|use)\s+(?:the\s+)?[\w.-]+\s+(?:tool|function)\b"
    r"|</(?:rows?|results?|data|output|tool_?results?|context|documents?)>\s*(?:now|then|please|you|ignore|system)\b",
    re.IGNORECASE,
)
_TOKENS = re.compile(
    r"<\|(?:im_start|im_end|system|user|assistant|endoftext|eot_id|start_header_id|end_header_id)\|>"
    r"|\[/?INST\]|<</?SYS>>|<start_of_turn>|<end_of_turn>"
)
_ADDRESS = re.compile(r"\]\(\s{0,8}https?://([^()\s]{0,2000})", re.IGNORECASE)
_PLACE_FOR_DATA = re.compile(r"\{[^{}]*\}|%7B|\$\w", re.IGNORECASE)


def phrases(text: str) -> Iterator[Finding]:
    """Sentences that give a model orders, and closing tags of a wrapper with such a sentence behind."""
    if (found := _PHRASES.search(text)) is not None:
        yield Finding("phrases", "annotate", "a sentence that gives orders to a model", found.start())


def template_tokens(text: str) -> Iterator[Finding]:
    """Tokens that chat templates set turns apart with."""
    if (found := _TOKENS.search(text)) is not None:
        yield Finding("template_tokens", "annotate", "tokens of a chat template", found.start())


def links(text: str) -> Iterator[Finding]:
    """Links and images with a place for data in their address."""
    for found in _ADDRESS.finditer(text):
        if _PLACE_FOR_DATA.search(found[1]) is not None:
            yield Finding("links", "annotate", "a link with a place for data", found.start())
            return
