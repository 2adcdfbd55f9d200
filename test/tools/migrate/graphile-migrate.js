// Committed migrations up to a version by graphile-migrate: graphile-migrate.js VERSION
const fs = require('fs');
const path = require('path');
const { migrate } = require('graphile-migrate');
const { calculateHash } = require('graphile-migrate/dist/hash');

async function main() {
	const dir = fs.mkdtempSync(path.join(process.cwd(), 'gm-'));
	fs.mkdirSync(`${dir}/committed`);
	let previous = null;
	for (let version = 0; version <= Number(process.argv[2]); version++) {
		const body = `CREATE TABLE gm_${version} (i int);\nSELECT do_work('graphile-migrate ${version}');`;
		const hash = calculateHash(body, previous);
		fs.writeFileSync(`${dir}/committed/00000${version + 1}.sql`,
			`--! Previous: ${previous || '-'}\n--! Hash: ${hash}\n\n${body}\n`);
		previous = hash;
	}
	const { PGUSER, PGHOST, PGPORT, PGDATABASE } = process.env;
	await migrate({
		connectionString:
			`postgres://${PGUSER}@${encodeURIComponent(PGHOST)}:${PGPORT}/${PGDATABASE}`,
		migrationsFolder: dir,
	});
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
