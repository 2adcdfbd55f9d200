#-------------------------------------------------------------------------
# Bench::Rows::Hot - what a server keeps, and what others pay for it
#-------------------------------------------------------------------------
package Bench::Rows::Hot;

use strict;
use warnings;

use EtcdLockTest;
use IPC::Run;
use Time::HiRes qw(sleep time);

sub rows
{
	return (
		asked('kept_lock', '`etcd_lock` on another server: the lock is kept', 'etcd_lock', 'idle'),
		asked('kept_try', '`etcd_try_lock` on another server: the lock is kept', 'etcd_try_lock', 'idle', 'true'),
		asked('held_try', '`etcd_try_lock` on another server: the lock is hot, and held', 'etcd_try_lock', 'held', 'false'),
		{
			id => 'kept_go',
			group => 'between',
			title => 'Go `concurrency.Mutex`: the lock is kept',
			run => sub { foreign(\&go, @_) },
		},
		{
			id => 'kept_etcdctl',
			group => 'between',
			title => '`etcdctl lock NAME true`, from start to end: the lock is kept',
			run => sub { foreign(\&etcdctl, @_) },
		},
		{
			id => 'steady',
			group => 'hot',
			title => 'one session locks and unlocks a hot lock',
			run => \&steady,
		},
		{
			id => 'idle_again',
			group => 'hot',
			title => '10,000 hot locks that nobody uses any more',
			once => 1,
			run => \&idle_again,
		},
		crash('crash', 'a machine dies that had just used a lock, cold', '0'),
		crash('crash_hot', 'a machine dies that had just used a lock, hot', '2s'));
}

sub stat_of
{
	my ($rig, $name, $column) = @_;
	return $rig->server($name)->safe_psql('postgres', "SELECT $column FROM etcd_lock_stats");
}

# A session of server b asks for what server a keeps.
sub asked
{
	my ($id, $title, $call, $state, @answer) = @_;
	return {
		id => $id,
		group => 'between',
		title => $title,
		run => sub {
			my ($rig, $seconds) = @_;
			my @conninfo = map { $rig->server($_)->connstr('postgres') } qw(a b);
			my $before = stat_of($rig, 'a', 'given_up');
			my $run = $rig->accounted('count',
				sub { $rig->program('kept', @conninfo, "/bench/$id", $seconds, $call, $state, @answer) },
				qw(a b));
			$run->{given_up} = (stat_of($rig, 'a', 'given_up') - $before) / $run->{count};
			return $run;
		},
	};
}

# Until the server keeps it, and knows that nobody else wants it.
sub heat
{
	my ($session, $name) = @_;
	$session->query(join ' ', ("SELECT etcd_lock('$name'); SELECT etcd_unlock('$name');") x 6);
	sleep 0.02;
	$session->query("SELECT etcd_lock('$name'); SELECT etcd_unlock('$name')");
	return;
}

# Another client asks for locks that server a keeps, each of another name.
sub foreign
{
	my ($client, $rig, $seconds) = @_;
	my $session = session($rig->server('a'));
	my $ask = $client->($rig);
	my $before = stat_of($rig, 'a', 'given_up');
	my $until = time + $seconds;
	my @took;

	for (my $i = 0; time < $until; $i++)
	{
		my $name = "/bench/foreign/$i";
		heat($session, $name);
		push @took, $ask->($name);
	}
	$ask->();
	$session->quit;
	return {
		samples => { granted => \@took },
		count => scalar @took,
		given_up => (stat_of($rig, 'a', 'given_up') - $before) / @took,
	};
}

# Asks are functions: a name, how many microseconds it took; no name: the end.
sub go
{
	my ($rig) = @_;
	my ($in, $out) = ('', '');
	my $run = IPC::Run::start(
		[ "$rig->{programs}/gomutex", 'take', $rig->endpoint, '0', '0' ],
		'<', \$in, '>', \$out);
	return sub {
		my ($name) = @_;
		if (!defined $name)
		{
			$run->finish;
			return;
		}
		$out = '';
		$in .= "$name\n";
		$run->pump until $out =~ /\n/;
		return $out =~ /^([\d.]+)/ ? $1 : die "gomutex: $out\n";
	};
}

sub etcdctl
{
	my ($rig) = @_;
	return sub {
		my ($name) = @_;
		return unless defined $name;
		local $ENV{ETCDCTL_API} = 3;
		my $began = time;
		system('sh', '-c', 'exec "$@" >/dev/null', 'sh', $ENV{ETCDCTL} // 'etcdctl',
			'--endpoints=' . $rig->endpoint, 'lock', $name, 'true') == 0
		  or die "etcdctl lock failed\n";
		return 1e6 * (time - $began);
	};
}

# What etcd is asked for meanwhile, but for the servers' keepalives of three requests each.
sub steady
{
	my ($rig, $seconds) = @_;
	my $session = session($rig->server('a'));
	my $loop = "DO \$\$ DECLARE u timestamptz := clock_timestamp() + interval '1 s'; BEGIN
		WHILE clock_timestamp() < u LOOP
			PERFORM etcd_lock('/bench/steady'); PERFORM etcd_unlock('/bench/steady');
		END LOOP; END \$\$";
	heat($session, '/bench/steady');
	$session->query($loop);    # by now all is told that there is to tell
	my $turns = int(1 + 2 * $seconds);
	my $locks = stat_of($rig, 'a', 'acquired_etcd + acquired_passed_on');
	my $before = $rig->account;
	$session->query($loop) foreach 1 .. $turns;
	my $after = $rig->account;
	$locks = stat_of($rig, 'a', 'acquired_etcd + acquired_passed_on') - $locks;
	$session->quit;

	my %more = map { $_ => $after->{$_} - $before->{$_} } qw(requests keepalives);
	my $own = $more{requests} - 3 * $more{keepalives};
	$own = 0 if $own < 0;
	return {
		rate => $locks / $turns,
		requests_per_second => $own / $turns,
		requests_per_1000 => 1000 * $own / $locks,
	};
}

# How long after keep_window the last key is gone, and by how many requests.
sub idle_again
{
	my ($rig) = @_;
	my ($many, $keep) = $rig->is_quick ? (1000, 3) : (10_000, 10);
	my $clients = 16;
	my $each = $many / $clients;
	my @sessions = map { session($rig->server('a')) } 1 .. $clients;
	my $use = sub {
		foreach my $i (0 .. $#sessions)
		{
			$sessions[$i]->send("SELECT count(etcd_unlock(n)) FROM (SELECT '/idle/$i/' || i AS n"
				  . " FROM generate_series(1, $each) i OFFSET 0) s"
				  . ' WHERE etcd_lock(n) > 0');
		}
		$_->result foreach @sessions;
		return;
	};

	$rig->keep("${keep}s");
	my ($used, $kept);
	foreach my $turn (1 .. 10)
	{
		$use->();
		$used = time;
		$kept = stat_of($rig, 'a', 'kept');
		last if $kept == $many;
	}

	# A few find no place among the names that the server remembers.
	die "only $kept of $many names are kept\n" if $kept < 0.95 * $many;

	# The requests before are reads of the queues.
	my $batches;
	wait_until(
		'the first ones are gone',
		sub {
			my ($still, $now) = split /\|/, stat_of($rig, 'a', "kept || '|' || batches");
			$batches = $now if $still == $kept;
			return $still < $kept;
		},
		60);
	wait_until('all are gone from etcd', sub { !$rig->etcd->key_count('/idle/') }, 60);
	my $late = time - $used - $keep;
	$batches = stat_of($rig, 'a', 'batches') - $batches;
	$_->quit foreach @sessions;
	return { kept => $kept, late_s => $late, keys_per_request => $kept / ($batches || 1) };
}

# Server c is killed together with all that could free its locks, and server b asks.
sub crash
{
	my ($id, $title, $keep) = @_;
	return {
		id => $id,
		group => 'hot',
		title => $title,
		once => 1,
		keep => $keep,
		run => sub {
			my ($rig) = @_;
			return { skipped => 'takes the time of a lease' } if $rig->is_quick;
			my $name = "/bench/$id";
			$rig->run_only(qw(a b c));
			$rig->keep($keep);
			my $other = session($rig->server('b'));
			my $session = session($rig->server('c'));
			heat($session, $name);
			$rig->kill('c');
			my $began = time;
			$other->query("SELECT etcd_lock('$name')");
			my $blocked = time - $began;
			$other->query("SELECT etcd_unlock('$name')");
			$other->quit;
			$session->kill;
			return { blocked_s => $blocked };
		},
	};
}

1;
