"""The control plane: profiles over HTTP, with agents, approvals and pages. `guarddb serve` starts it.

Built on guarddb's public names; needs the extra `guarddb[server]`.
"""

from importlib.util import find_spec

_missing = [name for name in ("fastapi", "uvicorn", "alembic", "jinja2") if find_spec(name) is None]
if _missing:
    raise ImportError(
        f"the control plane needs pip install 'guarddb[server]' ({', '.join(_missing)} is missing)"
    )
