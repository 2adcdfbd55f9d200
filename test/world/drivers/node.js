// The driver script by node-postgres: see README.md.

const readline = require('readline');
const { Client } = require('pg');

const connections = {};

function show(value) {
	if (value === null) return 'null';
	if (value === true) return 't';
	if (value === false) return 'f';
	return String(value);
}

// A message of several statements has several results.
function rows(result) {
	const last = Array.isArray(result) ? result[result.length - 1] : result;
	return (last.rows || []).map((row) => row.map(show).join('|')).join(';');
}

async function run(name, text, values) {
	const query = { text, rowMode: 'array' };
	if (values) query.values = values;
	return rows(await connections[name].query(query));
}

const value = (field) => (field[0] === 'i' ? Number(field.slice(2)) : field.slice(2));

async function command([what, ...fields]) {
	switch (what) {
		case 'open': {
			const client = new Client({
				host: '127.0.0.1', port: process.env[fields[1]], user: 'postgres', database: 'postgres' });
			client.on('error', () => {});
			await client.connect();
			connections[fields[0]] = client;
			return '';
		}
		case 'close':
			await connections[fields[0]].end();
			return '';
		case 'q':
			return run(fields[0], fields[1]);
		case 'p':
			return run(fields[0], fields[1], fields.slice(2).map(value));
		case 'release': {
			let refused = 0;
			for (let i = 0; i < Number(fields[0]); i++) {
				await run(fields[1], fields[3]);
				if (await run(fields[2], fields[4]) === 'f') refused++;
			}
			return String(refused);
		}
		default:
			return run(fields[0], what);
	}
}

async function main() {
	for await (const line of readline.createInterface({ input: process.stdin })) {
		let answer;
		try {
			answer = 'ok\t' + await command(line.split('\t'));
		} catch (error) {
			answer = 'error\t' + (/^[0-9A-Z]{5}$/.test(error.code) ? error.code : 'closed');
		}
		process.stdout.write(answer + '\n');
	}
	process.exit(0);
}

main();
