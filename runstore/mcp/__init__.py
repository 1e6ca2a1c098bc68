"""MCP: the tools that agents are given, written once over a port.

`tools` says what there is and `port` what it stands on; neither knows the MCP SDK. `server`, `http` and `stdio` are all
that does, and are imported only when the first agent comes.
"""
