// What the benchmark tells a contender's process (benchmarks/peers/setting.py), and the ledger in which the task writes (ledger.py).
import fs from 'node:fs';
import path from 'node:path';

export const setting = JSON.parse(process.env.PGQUEUE_BENCHMARK);

export const versionOf = (name) =>
  JSON.parse(fs.readFileSync(new URL(`./node_modules/${name}/package.json`, import.meta.url))).version;

export const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

const FLUSH_MILLISECONDS = 5;

class TaskFailed extends Error {}

// Node maps no files: the ledger is in memory, and what changed goes to the file every few milliseconds.
export class Ledger {
  constructor({ ledger, size, timed, sleep, failing }) {
    this.pause = sleep;
    this.failing = failing;
    this.runs = new Uint8Array(size);
    this.times = timed ? new BigInt64Array(size) : null;
    this.first = size;
    this.last = -1;
    const open = (kind) => fs.openSync(path.join(ledger, `${process.pid}.${kind}`), 'w');
    this.runsFile = open('runs');
    this.timesFile = timed ? open('times') : null;
    setInterval(() => this.flush(), FLUSH_MILLISECONDS).unref();
  }

  // The first line of the task: for how many seconds it is to sleep.
  hit(number) {
    if (number < 0) return 0;
    if (this.times) this.times[number] = process.hrtime.bigint();
    if (this.runs[number] < 255) this.runs[number] += 1;
    if (number < this.first) this.first = number;
    if (number > this.last) this.last = number;
    if ((number * 37) % 100 < this.failing) throw new TaskFailed(`job ${number} is meant to fail`);
    return this.pause;
  }

  flush() {
    const { first, last } = this;
    if (last < 0) return;
    // Times first: a reader that sees a run must find its time.
    if (this.times) fs.writeSync(this.timesFile, new Uint8Array(this.times.buffer), first * 8, (last - first + 1) * 8, first * 8);
    fs.writeSync(this.runsFile, this.runs, first, last - first + 1, first);
    this.first = this.runs.length;
    this.last = -1;
  }
}
