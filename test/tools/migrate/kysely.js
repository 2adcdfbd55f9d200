// Migrations up to a version by kysely's Migrator: kysely.js VERSION
const { Kysely, Migrator, PostgresDialect, sql } = require('kysely');
const { Pool } = require('pg');

async function main() {
	const migrations = {};
	for (let version = 0; version <= Number(process.argv[2]); version++) {
		migrations[`change${version}`] = {
			up: async (db) => {
				await sql.raw(`CREATE TABLE kysely_${version} (i int)`).execute(db);
				await sql.raw(`SELECT do_work('kysely ${version}')`).execute(db);
			},
		};
	}
	const db = new Kysely({ dialect: new PostgresDialect({ pool: new Pool() }) });
	const migrator = new Migrator({ db, provider: { getMigrations: async () => migrations } });
	const { error } = await migrator.migrateToLatest();
	if (error) throw error;
	await db.destroy();
}

main().catch((error) => { console.error(error); process.exit(1); });
