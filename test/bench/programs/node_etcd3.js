// What the lock of the npm package etcd3 does, one client.
//
//   NODE_PATH=.../node_modules node node_etcd3.js HOST:PORT SECONDS
//
// Prints what sample.h tells.

const { Etcd3 } = require('etcd3');

const WARM_UP = 10;
const now = () => Number(process.hrtime.bigint()) / 1e3;

async function main() {
  const [hosts, seconds] = process.argv.slice(2);
  const client = new Etcd3({ hosts });
  const samples = [];
  const began = now();

  while (now() < began + seconds * 1e6) {
    // A lock has a lease of its own; it is granted in acquire().
    const lock = client.lock('/bench/node').ttl(60);
    const before = now();
    await lock.acquire();
    const locked = now();
    await lock.release();
    samples.push([locked - before, now() - locked]);
  }
  const took = now() - began;

  for (const [lock, unlock] of samples.slice(WARM_UP)) {
    console.log(`lock ${lock.toFixed(2)}\nunlock ${unlock.toFixed(2)}\npair ${(lock + unlock).toFixed(2)}`);
  }
  console.log(`done ${samples.length} ${(took / 1e6).toFixed(6)}`);
}

// It would go on for a minute, keeping its leases alive.
main().then(() => process.stdout.write('', () => process.exit(0)), (error) => {
  console.error(error);
  process.exit(1);
});
