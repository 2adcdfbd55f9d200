// Migrations up to a version by postgres-migrations: postgres-migrations.js VERSION
const fs = require('fs');
const path = require('path');
const { Client } = require('pg');
const { migrate } = require('postgres-migrations');

async function main() {
	const dir = fs.mkdtempSync(path.join(process.cwd(), 'pm-'));
	for (let version = 0; version <= Number(process.argv[2]); version++) {
		fs.writeFileSync(`${dir}/${version + 1}_change${version}.sql`,
			`CREATE TABLE pm_${version} (i int); SELECT do_work('postgres-migrations ${version}');`);
	}
	const client = new Client();
	await client.connect();
	await migrate({ client }, dir);
	await client.end();
}

main().catch((error) => { console.error(error); process.exit(1); });
