// The lock of npm's etcd3, for test/tools/108_clients.pl.
//
//   node lock.js ENDPOINT NAME
//
// Prints "held" when it has the lock, unlocks at the end of its input.

const { Etcd3 } = require('etcd3');

async function main() {
  const [hosts, name] = process.argv.slice(2);
  const client = new Etcd3({ hosts });
  const lock = client.lock(name).ttl(60);

  await lock.acquire();
  console.log('held');
  process.stdin.resume();
  process.stdin.on('end', async () => {
    await lock.release();
    client.close();
  });
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
