"""The control plane: profiles over HTTP, with agents, approvals and pages. `guarddb serve` starts it.

Built on guarddb's public names; needs the extra `guarddb[server]`.
"""
