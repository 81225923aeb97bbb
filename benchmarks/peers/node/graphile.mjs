import { run, makeWorkerUtils, Logger } from 'graphile-worker';
import pg from 'pg';
import { main } from './contender.mjs';
import { setting, sleep, versionOf } from './setting.mjs';

const { dsn, options, failing } = setting;
const logger = new Logger(() => () => {});
const spec = failing ? { maxAttempts: 1 } : {};
let utils, hit, runner;

await main({
  version: versionOf('graphile-worker'),
  unfinished: 'select count(*) from graphile_worker._private_jobs where attempts < max_attempts or locked_at is not null',

  async setUp() {
    const migrating = await makeWorkerUtils({ connectionString: dsn, logger });
    await migrating.migrate();
    await migrating.release();
  },
  async openProducer() {
    utils = await makeWorkerUtils({ pgPool: new pg.Pool({ connectionString: dsn, max: 1 }), logger });
  },
  async enqueue(payload) {
    await utils.addJob('noop', payload, spec);
  },
  async enqueueBulk(payloads, due) {
    for (let first = 0; first < payloads.length; first += options.chunk) {
      const part = payloads.slice(first, first + options.chunk);
      await utils.addJobs(
        part.map((payload, n) => ({ identifier: 'noop', payload, ...spec, ...(due && { runAt: due[first + n] }) })),
      );
    }
  },
  async openWorker(ledger) {
    hit = ledger;
  },
  async startWorker() {
    const worker = { concurrentJobs: options.concurrency, maxPoolSize: options.pool, connectionString: dsn, logger };
    if (options.localQueue) {
      worker.localQueue = { size: options.localQueue, refetchDelay: { durationMs: options.refetchDelay } };
      worker.completeJobBatchDelay = worker.failJobBatchDelay = options.batchDelay;
    }
    const noop = async ({ id }) => {
      const pause = hit(id);
      if (pause) await sleep(pause);
    };
    runner = await run({ preset: { worker }, noHandleSignals: true, taskList: { noop } });
  },
  async stopWorker() {
    await runner.stop();
  },
});
