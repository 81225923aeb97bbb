import { PgBoss } from 'pg-boss';
import { main } from './contender.mjs';
import { setting, sleep, versionOf } from './setting.mjs';

const { dsn, options, failing } = setting;
const QUEUE = 'noop';
const spec = failing ? { retryLimit: 0 } : {};
let boss, hit;

const open = async (given) => {
  boss = new PgBoss({ connectionString: dsn, ...given });
  boss.on('error', (error) => console.error(error));
  await boss.start();
};

// A batch settles as a whole unless its results are told one by one.
async function work(jobs) {
  if (!failing) {
    const pauses = jobs.map(({ data }) => hit(data.id)).filter(Boolean);
    if (pauses.length) await Promise.all(pauses.map(sleep));
    return undefined;
  }
  return jobs.map(({ id, data }) => {
    try {
      hit(data.id);
      return { id, status: 'completed' };
    } catch (error) {
      return { id, status: 'failed', output: { message: error.message } };
    }
  });
}

await main({
  version: versionOf('pg-boss'),
  unfinished: "select count(*) from pgboss.job where name = 'noop' and state < 'completed'",

  async setUp() {
    await open({});
    await boss.createQueue(QUEUE, { notify: options.notify });
    await boss.stop({ graceful: false });
  },
  async openProducer() {
    await open({ max: 1, supervise: false, schedule: false, migrate: false });
  },
  async enqueue(data) {
    await boss.send(QUEUE, data, spec);
  },
  async enqueueBulk(payloads, due) {
    for (let first = 0; first < payloads.length; first += options.chunk) {
      const part = payloads.slice(first, first + options.chunk);
      await boss.insert(QUEUE, part.map((data, n) => ({ data, ...spec, ...(due && { startAfter: due[first + n] }) })));
    }
  },
  async openWorker(ledger) {
    hit = ledger;
    await open({ max: options.pool, useListenNotify: options.notify });
  },
  async startWorker() {
    const { batchSize, localConcurrency } = options;
    const given = { batchSize, localConcurrency, pollingIntervalSeconds: 0.5, burstWhenBatchFull: true };
    await boss.work(QUEUE, { ...given, perJobResults: failing > 0 }, work);
  },
  async stopWorker() {
    await boss.stop({ graceful: false });
  },
});
