"""Raw HTTP: each input is answered by what the document tells of, or the connection it broke is closed."""

from tests.attack.attack import Attack, Plan, Tally, each
from tests.attack.http_line import HttpLine, NotHttp
from tests.attack.judge import Documented, judge
from tests.attack.kinds.http_inputs import Input, draw
from tests.attack.site import Site

AT_ONCE = 48


async def run(site: Site, tally: Tally, plan: Plan) -> None:
    """Send them all, over connections that live as long as the gateway lets them."""
    documented = Documented(site.document)
    lines = [HttpLine(site.address, number) for number in range(AT_ONCE)]
    free = list(lines)

    async def one(number: int) -> None:
        random = plan.random(number)
        made = draw(site, random)
        line = free.pop()
        try:
            await _send(site, tally, line, made, number, documented)
        finally:
            free.append(line)

    await each(plan.numbers(), AT_ONCE, one)
    for line in lines:
        line.close()


async def _send(site: Site, tally: Tally, line: HttpLine, made: Input, number: int, documented: Documented) -> None:
    try:
        answers = await line.ask(made.raw, made.method, ends=made.ends)
    except NotHttp as error:
        tally.tried("no HTTP", len(made.raw))
        tally.fail("an answer that is no HTTP", number, made.raw, str(error))
        return
    except TimeoutError:
        tally.tried("none", len(made.raw))
        tally.fail("an input that was not answered", number, made.raw)
        return
    except ConnectionError as error:
        tally.tried("closed", len(made.raw))
        if not made.may_be_cut:
            tally.fail("a connection that was closed without an answer", number, made.raw, str(error))
        return
    tally.tried(answers[0].status, len(made.raw))
    if len(answers) > made.most_answers:
        tally.fail("more answers than requests: something was smuggled", number, made.raw, answers)
    allowed = documented.statuses(made.method.decode(), made.path) if made.path is not None else None
    for answer in answers:
        judge(site, tally, answer, number=number, sent=made.raw, allowed=allowed, is_admin=made.is_admin)


ATTACK = Attack(
    name="http",
    checks="answered or cut; statuses of the document; problem documents; nothing smuggled; no other project shown",
    share=0.33,
    run=run,
)
