// A contender's processes: `node NAME.mjs set_up|one|bulk|paced|work [JSON]`, as benchmarks/peers/contender.py has them.
import fs from 'node:fs';
import { createInterface } from 'node:readline';
import { Ledger, setting, sleep } from './setting.mjs';

const WARM_UP = 20;
const STOP_LIMIT = 10;

const now = () => Number(process.hrtime.bigint());
const say = (answer) => fs.writeSync(1, JSON.stringify(answer) + '\n');

// A contender is {version, unfinished, setUp, openProducer, enqueue, enqueueBulk, openWorker(ledger), startWorker, stopWorker}.
const roles = {
  async set_up(contender) {
    await contender.setUp();
    return { version: contender.version, runtime: `Node ${process.versions.node}`, unfinished: contender.unfinished };
  },

  async one(contender, { jobs, start = 0 }) {
    await contender.openProducer();
    for (let n = 0; n < WARM_UP; n++) await contender.enqueue({ id: -1 });
    const cpu = process.cpuUsage();
    const began = now();
    for (let n = start; n < start + jobs; n++) await contender.enqueue({ id: n });
    const seconds = (now() - began) / 1e9;
    const { user, system } = process.cpuUsage(cpu);
    return { seconds, cpu: (user + system) / 1e6 };
  },

  async bulk(contender, { jobs, start = 0, pad = 0, due = null, step = 0 }) {
    const extra = pad ? { pad: 'x'.repeat(pad) } : {};
    const payloads = Array.from({ length: jobs }, (_, n) => ({ id: start + n, ...extra }));
    const times = due === null ? null : payloads.map((_, n) => new Date((due + step * n) * 1000));
    await contender.openProducer();
    const began = now();
    await contender.enqueueBulk(payloads, times);
    return { seconds: (now() - began) / 1e9 };
  },

  async paced(contender, { jobs, interval, start = 0 }) {
    await contender.openProducer();
    for (let n = 0; n < WARM_UP; n++) {
      await contender.enqueue({ id: -1 });
      await sleep(interval);
    }
    const before = [], after = [];
    let at = now() + interval * 1e9;
    for (let n = start; n < start + jobs; n++) {
      await sleep(Math.max(0, (at - now()) / 1e9));
      before.push(now());
      await contender.enqueue({ id: n });
      after.push(now());
      at += interval * 1e9;
    }
    return { before, after };
  },

  async work(contender) {
    const lines = createInterface({ input: process.stdin });
    const go = new Promise((resolve) => lines.once('line', resolve));
    const closed = new Promise((resolve) => lines.once('close', resolve));
    const ledger = new Ledger(setting);
    await contender.openWorker((id) => ledger.hit(id));
    say({ ready: true });
    await go;
    await contender.startWorker();
    await closed;
    await Promise.race([contender.stopWorker(), sleep(STOP_LIMIT)]);
    ledger.flush();
    return { stopped: true };
  },
};

export async function main(contender) {
  const [role, given = '{}'] = process.argv.slice(2);
  say(await roles[role](contender, JSON.parse(given)));
  process.exit(0);
}
