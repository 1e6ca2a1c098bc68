"""All kinds, in the order in which they are done."""

from tests.attack.kinds import children, events, frames, git, halfopen, http, mcp, schema, stdout, tokens

ATTACKS = {
    module.ATTACK.name: module.ATTACK
    for module in (schema, http, tokens, frames, mcp, events, halfopen, stdout, children, git)
}
