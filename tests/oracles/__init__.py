"""Oracles: what guarddb does to generated statements, judged by something that shares no code with it.

- `rls`: PostgreSQL's own row security with the same predicate, and a copy without the hidden rows;
- `masks`: a copy of the database in which the masked columns were overwritten by their masks;
- `variants`: two databases that differ only in what the agent may not know;
- `changes`: the same two after definitions, settings and writes to what the filters read;
- `twin`: the policy compiled into PostgreSQL itself (the wall), which answers without any of our reading of SQL;
- `reparse`: a walker of its own over the text that is sent;
- `analyzer`: PostgreSQL's own analyzer, of statements whose names collide: what it finds in the agent's text and in what is sent.

A statement is a list of draws (`draws.py`), so every statement can be made again from its seed, and a failing one is shrunk
by dropping draws. `python -m tests.oracles --oracle rls --statements 200000 --seed 1` runs one at any size.
"""
