# shellcheck shell=bash
#
# What the ways to install share.  Each of them does what the documents tell its users to
# do, by the very commands, in a system that is thrown away: test/versions makes one for
# each release of Debian, CI has a container.  They print TAP.

set -euo pipefail
umask 022
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive

[ "${THROWAWAY:-}" = yes ] && [ "$(id -u)" = 0 ] || {
	echo "${0##*/}: installs into this system: only as root, with THROWAWAY=yes" >&2
	exit 1
}

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
sources=/usr/src/etcd_lock
log=$(mktemp)
tests=0
failed=0

# check NAME COMMAND...: a test; what the command prints is told of if it fails.  Always
# returns true: within "||" the shell would ignore "set -e" in the command, too.
check()
{
	local name=$1
	shift
	result=ok
	set +e
	(set -e; "$@") >"$log" 2>&1 </dev/null
	[ $? = 0 ] || result='not ok' failed=$((failed + 1))
	set -e
	tests=$((tests + 1))
	echo "$result $tests - $name"
	[ "$result" = ok ] || tail -n 100 "$log" | sed 's/^/# /'
}

# How many tests of PostgreSQL's kind the last check has run.
tests_passed() { sed -nE 's/^[# ]*(All [0-9]+ tests passed)\.? *$/# \1/p' "$log"; }

# must NAME COMMAND...: a test without which the others make no sense.
must()
{
	check "$@"
	[ "$result" = ok ] || done_testing
}

# same NAME GOT EXPECTED
same()
{
	check "$1" diff <(printf '%s\n' "$3") <(printf '%s\n' "$2")
}

done_testing()
{
	echo "1..$tests"
	echo "$((tests - failed)) passed, $failed failed"
	[ $failed = 0 ]
	exit
}

# until_true SECONDS COMMAND...
until_true()
{
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

#
# The documents' commands
#

# commands FILE WORDS: the indented block after the paragraph that begins with these words.
commands()
{
	awk -v words="$2" '
		index($0, words) == 1 { found = 1 }
		found && /^    / { sub(/^    /, ""); print; block = 1; next }
		block { exit }' "$checkout/$1" | grep .
}

# command_of BEGINNING: of the commands in standard input, the one that begins so.
command_of()
{
	BEGINNING=$1 perl -0777 -ne '
		s/\\\n\s*/ /g;
		print "$_\n" foreach grep { index($_, $ENV{BEGINNING}) == 0 } split /\n/' | grep .
}

# Nobody is there to say yes.
prepare_apt()
{
	cat >/etc/apt/apt.conf.d/unattended <<'END'
APT::Get::Assume-Yes "true";
APT::Install-Recommends "false";
Dpkg::Use-Pty "false";
END
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
	chmod +x /usr/sbin/policy-rc.d
	# Clusters are made by name.
	mkdir -p /etc/postgresql-common/createcluster.d
	echo "create_main_cluster = off" >/etc/postgresql-common/createcluster.d/none.conf
	apt-get update
}

# What "git clone" gives: the files of the checkout that git does not ignore, committed.
clone_sources()
{
	rm -rf "$sources"
	mkdir -p "$sources"
	tar -C "$checkout" --exclude=./.git --exclude=./build -cf - . | tar -C "$sources" -xf -
	cd "$sources"
	git -c init.defaultBranch=main init -q
	git add -A
	git -c user.name=test -c user.email=test@localhost commit -q -m "The files under test"
	git clean -q -d -x -f
}

# The files of the system, but for those of package managers, the clusters and logs.
system_files()
{
	find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp \
		-o -path /root -o -path "$sources" -o -path "$checkout" -o -path /var/lib/dpkg \
		-o -path /var/lib/apt -o -path /var/cache -o -path /var/log \
		-o -path /var/lib/postgresql -o -path /etc/postgresql -o -path /var/lib/systemd \) \
		-prune -o ! -type d -print | LC_ALL=C sort
}

nothing_new_since()
{
	system_files | diff "$1" -
}

#
# etcd and PostgreSQL, as the system has them
#

etcdctl() { ETCDCTL_API=3 command etcdctl --endpoints="$etcd_url" "$@"; }
etcd_is_well() { etcdctl endpoint health >/dev/null 2>&1; }

# Two of them.
free_ports()
{
	perl -MIO::Socket::INET -e '
		my @held = map { IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") } 1 .. 2;
		print join(" ", map { $_->sockport } @held), "\n"'
}

# The system's etcd, by its own user, without an init that would start it.
start_etcd()
{
	local client peer

	read -r client peer <<<"$(free_ports)"
	etcd_url=http://127.0.0.1:$client
	mkdir -p /tmp/etcd
	chown etcd /tmp/etcd
	setsid runuser -u etcd -- etcd --name default --data-dir /tmp/etcd/data --logger zap \
		--listen-client-urls "$etcd_url" --advertise-client-urls "$etcd_url" \
		--listen-peer-urls "http://127.0.0.1:$peer" \
		--initial-advertise-peer-urls "http://127.0.0.1:$peer" \
		--initial-cluster "default=http://127.0.0.1:$peer" >/tmp/etcd.log 2>&1 </dev/null &
	echo $! >/tmp/etcd.pid
	echo "$etcd_url" >/tmp/etcd.url
	until_true 30 etcd_is_well || { cat /tmp/etcd.log; return 1; }
}

# It was started by a test, which has variables of its own.
find_etcd()
{
	etcd_url=$(</tmp/etcd.url)
	echo "# $(etcdctl version | head -n 1), $(etcdctl endpoint status | cut -d, -f 3)"
}

stop_etcd()
{
	kill "$(</tmp/etcd.pid)"
	rm -rf /tmp/etcd /tmp/etcd.*
}

# All but the ticks, which nobody takes in these tests.
nothing_in_etcd()
{
	[ -z "$(etcdctl get --prefix '' --keys-only)" ] &&
		[ "$(etcdctl lease list | sed 1d)" = "" ]
}

# What README.md says for an installation from source, with this release's PostgreSQL, and
# the server and etcd.
install_requirements()
{
	pg_version=$(apt-cache depends postgresql | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p')
	bash -exc "$(commands README.md '**From source**' | command_of 'apt-get install make' |
		sed "s/postgresql-server-dev-[0-9]*/postgresql-server-dev-$pg_version/")"
	apt-get install git ca-certificates "postgresql-$pg_version" etcd-server etcd-client "$@"
}

# The newest PostgreSQL that is installed.
choose_postgres()
{
	pg_version=$(ls /usr/lib/postgresql | sort -n | tail -n 1)
	echo "# PostgreSQL $pg_version"
}

# make_cluster NAME SETTING...
make_cluster()
{
	local name=$1
	shift
	pg_createcluster "$pg_version" "$name" --start-conf=manual -- --auth=trust >/dev/null
	printf '%s\n' "$@" >>"/etc/postgresql/$pg_version/$name/postgresql.conf"
	pg_ctlcluster "$pg_version" "$name" start
}

drop_cluster() { pg_dropcluster --stop "$pg_version" "$1"; }
cluster_port() { pg_lsclusters -h | awk -v name="$1" '$2 == name { print $3 }'; }

# sql CLUSTER STATEMENT...
sql()
{
	local name=$1 args=() statement
	shift
	for statement; do
		args+=(-c "$statement")
	done
	runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -p "$(cluster_port "$name")" \
		-d postgres ${args[@]+"${args[@]}"}
}

# installcheck CLUSTER COMMAND...: a command that runs make installcheck, as the server's
# superuser, on this cluster.
installcheck()
{
	local status=0

	runuser -u postgres -- env HOME=/tmp PGPORT="$(cluster_port "$1")" "${@:2}" || status=$?
	find . /tmp -name regression.diffs -exec cat {} +
	return $status
}

is_ready() { [ "$(sql "$1" "SELECT state FROM etcd_lock_status()")" = ready ]; }
waits() { [ "$(sql "$1" "SELECT count(*) FROM etcd_locks WHERE NOT granted")" = 1 ]; }

# exclusion A B: a lock on cluster A keeps B out, until it is released.
exclusion()
{
	local got token

	until_true 20 is_ready "$1"
	until_true 20 is_ready "$2"
	coproc holder { sql "$1"; }
	echo "SELECT etcd_lock('/jobs/report');" >&"${holder[1]}"
	read -r -t 30 token <&"${holder[0]}"
	got=$(sql "$2" "SELECT etcd_try_lock('/jobs/report')")
	[ "$got" = f ] || { echo "a try while it is held: $got"; return 1; }
	sql "$2" "SELECT etcd_lock('/jobs/report')" >/tmp/waiter &
	until_true 20 waits "$2"
	echo "SELECT etcd_unlock('/jobs/report');" >&"${holder[1]}"
	wait $!
	got=$(cat /tmp/waiter)
	[ "$got" -gt "$token" ] || { echo "tokens: $token, then $got"; return 1; }
	eval "exec ${holder[1]}>&-"
	wait "${holder_PID:-}" || true
}
