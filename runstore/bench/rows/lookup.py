"""`GET /v1/runs/{id}`: CPU of the gateway an answer, with auth on, beside a bare aiohttp handler."""

from runstore.bench import bare
from runstore.bench.figures import Found
from runstore.bench.load import ask
from runstore.bench.stage import PROJECT, Process, Stage, connected, event, new_id, story, stream
from runstore.projector import Projector

TITLE = "`GET /v1/runs/{id}` of an ended run, and of one that is not cached"
_RUNS = 500


async def measure(stage: Stage) -> Found:
    """Ask one server after the other; its own CPU time counts, since the client takes as much again."""
    found, each = Found(), stage.some(10_000, 1_000)
    answers: dict[str, list[float]] = {"ended": [], "ready": [], "live": [], "looked": []}
    walls: dict[str, list[float]] = {"ended": [], "ready": []}
    async with stage.store() as store, connected(stage.redis_url) as redis:
        token = await stage.token(store)
        ended, live = [new_id() for _ in range(_RUNS)], [new_id() for _ in range(_RUNS)]
        pipe = redis.pipeline(transaction=False)
        for run_id in ended:
            for told in story(run_id):
                pipe.xadd(stream(run_id), {"event": told})
        for run_id in live:
            pipe.xadd(stream(run_id), {"event": event(run_id, "running")})
            fields = {"status": "running", "project_name": PROJECT, "started_at": "2026-04-28T10:00:00+00:00"}
            pipe.hset(f"bare:{run_id}", mapping=fields | {"run_id": run_id})
        await pipe.execute()
        await Projector(store).drain()
        paths = {
            "ended": [f"/v1/runs/{ended[i % _RUNS]}" for i in range(each)],
            "live": [f"/v1/runs/{live[i % _RUNS]}" for i in range(each)],
            "ready": ["/ready"] * each,
            "looked": [f"/looked/{live[i % _RUNS]}" for i in range(each)],
        }
        with stage.gateway() as gateway, stage.process(stage.redis_url, module="runstore.bench.bare") as yardstick:
            for turn in range(stage.rounds + 1):
                for name, asked in paths.items():
                    server = gateway if name in ("ended", "live") else yardstick
                    cpu_us, wall_s = await _ask(server, asked, token if server is gateway else None)
                    if turn:  # the first one warms both up
                        answers[name].append(cpu_us)
                        if name in walls:
                            walls[name].append(each / wall_s)
    found.ours("ended, cached", "µs CPU", answers["ended"])
    found.yardstick(f"bare aiohttp, {len(bare.READY)} B ready-made", "µs CPU", answers["ready"])
    found.ours("running, looked up each time", "µs CPU", answers["live"])
    found.yardstick("bare aiohttp, one HGETALL", "µs CPU", answers["looked"])
    found.ours("ended, cached", "answers/s", walls["ended"])
    found.yardstick("bare aiohttp, ready-made", "answers/s", walls["ready"])
    found.at_least(0.85, "answers a CPU second: ended / bare", answers["ready"], answers["ended"])
    found.at_least(0.9, "answers a CPU second: not cached / HGETALL", answers["looked"], answers["live"])
    return found


async def _ask(server: Process, paths: list[str], token: str | None) -> tuple[float, float]:
    began = server.cpu_s()
    wall_s = await ask(server.url, paths, token=token)
    return (server.cpu_s() - began) / len(paths) * 1e6, wall_s
