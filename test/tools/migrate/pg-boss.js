// The tables of pg-boss, in a schema for each version: pg-boss.js VERSION
const PgBoss = require('pg-boss');

async function main() {
	const { PGUSER, PGHOST, PGPORT, PGDATABASE } = process.env;
	const boss = new PgBoss({
		host: PGHOST, port: Number(PGPORT), user: PGUSER, database: PGDATABASE,
		schema: `pgboss_${process.argv[2]}`,
	});
	boss.on('error', (error) => { console.error(error); process.exit(1); });
	await boss.start();
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
