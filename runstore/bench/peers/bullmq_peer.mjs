// BullMQ: a worker in a process of its own, and QueueEvents, which reads a stream.
import { createRequire } from "node:module";
const require = createRequire(process.env.BENCH_NODE_FOLDER + "/");
const { Queue, QueueEvents, Worker } = require("bullmq");
const url = new URL(process.env.BENCH_REDIS_URL);
const connection = {
  host: url.hostname, port: Number(url.port), username: url.username || undefined,
  password: url.password ? decodeURIComponent(url.password) : undefined, maxRetriesPerRequest: null,
};
if (process.argv[2] === "worker") {
  new Worker("bench", async () => "done", { connection });
} else {
  const queue = new Queue("bench", { connection });
  const events = new QueueEvents("bench", { connection });
  await events.waitUntilReady();
  const times = [];
  for (let i = 0; i < Number(process.argv[3]); i++) {
    const began = performance.now();
    const job = await queue.add("nothing", {});
    await job.waitUntilFinished(events, 30000);
    times.push(performance.now() - began);
  }
  process.stdout.write(JSON.stringify(times));
  process.exit(0);
}
