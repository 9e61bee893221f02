"""The lint of migrations and of profiles: pure, it reads texts and a catalog and touches no database.

`guarddb.lint` is a function, `guarddb.lint.migrations.lint`; the package's modules are imported by their full names
(`from guarddb.lint.finding import Finding`).
"""
