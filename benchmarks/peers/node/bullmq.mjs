// BullMQ on Redis or, with the option `postgres`, on PostgreSQL.
import { Queue, Worker, createPostgresBackend } from 'bullmq';
import { Redis } from 'ioredis';
import { main } from './contender.mjs';
import { setting, sleep, versionOf } from './setting.mjs';

const { dsn, redis, options } = setting;
const backend = options.postgres ? [createPostgresBackend] : [];
const connection = (max) =>
  options.postgres ? { connectionString: dsn, max } : new Redis(redis, { maxRetriesPerRequest: null });
const open = (max) =>
  new Queue('noop', { connection: connection(max), defaultJobOptions: { removeOnComplete: true } }, ...backend);
const UNFINISHED = "select count(*) from bullmq.job where state not in ('completed', 'failed')";
const UNFINISHED_IN_REDIS = [
  ['LLEN', 'bull:noop:wait'],
  ['LLEN', 'bull:noop:active'],
  ['ZCARD', 'bull:noop:prioritized'],
  ['ZCARD', 'bull:noop:delayed'],
];
let queue, worker;

await main({
  version: versionOf('bullmq'),
  unfinished: options.postgres ? UNFINISHED : UNFINISHED_IN_REDIS,

  async setUp() {
    if (!options.postgres) return;
    const migrating = new Queue('noop', { connection: { ...connection(2), migrate: true } }, ...backend);
    await migrating.waitUntilReady();
    await migrating.close();
  },
  async openProducer() {
    queue = open(1);
    await queue.waitUntilReady();
  },
  async enqueue(data) {
    await queue.add('noop', data);
  },
  async enqueueBulk(payloads, due) {
    const began = Date.now();
    for (let first = 0; first < payloads.length; first += options.chunk) {
      const part = payloads.slice(first, first + options.chunk);
      await queue.addBulk(
        part.map((data, n) => ({
          name: 'noop',
          data,
          ...(due && { opts: { delay: Math.max(0, due[first + n].getTime() - began) } }),
        })),
      );
    }
  },
  async openWorker(hit) {
    const process = async ({ data }) => {
      const pause = hit(data.id);
      if (pause) await sleep(pause);
    };
    const given = { connection: connection(options.pool), concurrency: options.concurrency, autorun: false };
    worker = new Worker('noop', process, given, ...backend);
    worker.on('error', (error) => console.error(error));
    await worker.waitUntilReady();
  },
  async startWorker() {
    worker.run();
  },
  async stopWorker() {
    await worker.close(true);
  },
});
