"""The OpenAPI document: requests that Schemathesis makes of it, where that is installed (the extra `attack`)."""

from tests.attack.attack import Attack, Plan, Tally
from tests.attack.site import Site


async def run(site: Site, tally: Tally, plan: Plan) -> None:
    """Leave it to Schemathesis, which takes a second to import."""
    try:
        from tests.attack.kinds import schema_cases
    except ImportError as error:
        tally.fail(f"Schemathesis cannot be used: pip install --editable '.[attack]' ({error})")
        return
    await schema_cases.run(site, tally, plan)


ATTACK = Attack(
    name="schema",
    checks="statuses, media types, headers and bodies as the OpenAPI document says; methods it does not name are 405",
    share=0.02,
    least=40,
    warms_up=False,
    run=run,
)
