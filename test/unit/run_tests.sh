#!/bin/sh
# Usage: run_tests.sh <directory> <test>...
#
# Runs the tests under prove, with an etcd of their own at $ETCD_ENDPOINT.
# $ETCD is the etcd to start, $RUN what each test is run under (valgrind),
# $PROVE_FLAGS options for prove.
set -u

: "${PROVE_FLAGS:=}"

build=$1
shift

data=$(mktemp -d) || exit 1
etcd_pid=
stop_etcd() {
	if [ -n "$etcd_pid" ]; then
		kill "$etcd_pid" 2>/dev/null
		wait "$etcd_pid" 2>/dev/null
		etcd_pid=
	fi
}
trap 'stop_etcd; rm -rf "$data"' EXIT
trap 'exit 1' HUP INT TERM

free_ports() {
	perl -MIO::Socket::INET -e '
		my @s = map { IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") or die } 1 .. 2;
		print join(" ", map { $_->sockport } @s), "\n"'
}

# True once a linearizable read succeeds.
answers() {
	perl -MIO::Socket::INET -e '
		my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], Timeout => 5) or exit 1;
		my $body = q({"key":"AA=="});
		print $s "POST /v3/kv/range HTTP/1.0\r\nContent-Length: ", length($body), "\r\n\r\n", $body;
		exit(<$s> =~ m{^HTTP/1\.\d 200} ? 0 : 1)' "$1" 2>/dev/null
}

# Another program may take a free port first, so try a few times.
start_etcd() {
	for attempt in 1 2 3 4 5; do
		set -- $(free_ports)
		rm -rf "$data/etcd"
		"$ETCD" --name unit --data-dir "$data/etcd" \
			--listen-client-urls "http://127.0.0.1:$1" \
			--advertise-client-urls "http://127.0.0.1:$1" \
			--listen-peer-urls "http://127.0.0.1:$2" \
			--initial-advertise-peer-urls "http://127.0.0.1:$2" \
			--initial-cluster "unit=http://127.0.0.1:$2" >"$data/etcd.log" 2>&1 &
		etcd_pid=$!
		tries=0
		while [ $tries -lt 300 ] && kill -0 "$etcd_pid" 2>/dev/null; do
			if answers "127.0.0.1:$1"; then
				ETCD_ENDPOINT=http://127.0.0.1:$1
				export ETCD_ENDPOINT
				return 0
			fi
			tries=$((tries + 1))
			sleep 0.1
		done
		stop_etcd
	done
	echo "etcd does not start:" >&2
	cat "$data/etcd.log" >&2
	return 1
}

start_etcd || exit 1

programs=
for test in "$@"; do
	programs="$programs $build/$test"
done
# shellcheck disable=SC2086
prove $PROVE_FLAGS --exec "$RUN" $programs
