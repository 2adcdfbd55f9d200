#-------------------------------------------------------------------------
# Bench::Rig - an etcd, three servers, and load on them
#-------------------------------------------------------------------------
package Bench::Rig;

use strict;
use warnings;

use Bench::Numbers qw(sum);
use Bench::Proc qw(cpu_us children_cpu_us children_of etcd_counters);
use EtcdLockTest;
use File::Temp;
use IPC::Run;
use POSIX qw(ceil);
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

# What every benchmark of a database would set, and room for many sessions and
# names.  fsync is on, and nothing is written but by those who are measured.
my $conf = <<'END';
fsync = on
shared_buffers = 128MB
max_wal_size = 1GB
autovacuum = off
max_connections = 1200
max_locks_per_transaction = 256
deadlock_timeout = 1s
log_line_prefix = '%m [%p] '
etcd_lock.max_names_per_session = 20000
END

my @names = qw(a b c);

=pod

=over

=item Bench::Rig->new(programs => DIR, quick => BOOLEAN)

Servers a, b and c on one etcd.  The programs are those of the Makefile.  Quick: with
less of what takes long.

=cut

sub new
{
	my ($class, %options) = @_;
	my $self = bless {
		programs => $options{programs},
		dir => PostgreSQL::Test::Utils::tempdir('bench'),
		etcd => EtcdLockTest::Etcd->new(fsync => 1),
		is_quick => $options{quick},
		files => 0,
	}, $class;
	foreach my $name (@names)
	{
		my $max_names = $name eq 'a' ? 16384 : 4096;
		my $node = new_server(
			$name,
			endpoints => $self->endpoint,
			conf => $conf . "etcd_lock.max_names = $max_names\n");
		$node->start;
		$node->safe_psql('postgres',
			    'CREATE EXTENSION etcd_lock;'
			  . 'CREATE TABLE written (id int PRIMARY KEY, value int) WITH (fillfactor = 10);'
			  . 'INSERT INTO written SELECT i, 0 FROM generate_series(0, 127) i;');
		$self->{$name} = $node;
	}
	$self->{$_}->safe_psql('postgres', "SELECT etcd_lock('/bench/warm'), etcd_unlock('/bench/warm')")
	  foreach @names;
	return $self;
}

sub etcd { my ($self) = @_; return $self->{etcd} }
sub server { my ($self, $name) = @_; return $self->{$name} }
sub is_quick { my ($self) = @_; return $self->{is_quick} }
sub endpoint { my ($self) = @_; return $self->{etcd}->endpoint }
sub worker { my ($self, $name) = @_; return $self->{worker}{$name} //= worker_pid($self->{$name}) }

sub postmaster
{
	my ($self, $name) = @_;
	my ($pid) = PostgreSQL::Test::Utils::slurp_file(
		$self->{$name}->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	return $pid;
}

=item $rig->run_only(@names)

Let these servers run and no others.

=cut

sub run_only
{
	my ($self, @run) = @_;
	foreach my $name (@names)
	{
		my $should = grep { $_ eq $name } @run;
		next if !!$should == !$self->{stopped}{$name};
		if ($should) { $self->{$name}->start }
		else
		{
			my $control = delete $self->{control}{$name};
			$control->quit if $control;
			$self->{$name}->stop('fast');
		}
		$self->{stopped}{$name} = !$should;
		delete $self->{worker}{$name};
	}
	return;
}

=item $rig->kill($name)

A server goes, and frees nothing; until run_only() starts it again.

=cut

sub kill
{
	my ($self, $name) = @_;
	my $node = $self->{$name};
	my ($postmaster) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');
	my @processes = ($postmaster, split ' ', slurp_file("/proc/$postmaster/task/$postmaster/children"));
	$node->kill9;
	CORE::kill 'KILL', @processes;
	wait_until("all processes of $name are gone", sub { !grep { CORE::kill 0, $_ } @processes });
	$self->{stopped}{$name} = 1;
	delete $self->{worker}{$name};
	my $control = delete $self->{control}{$name};
	$control->kill if $control;
	return;
}

=item $rig->keep($window)

Have the servers that run keep the keys of hot names for so long ("0": never).

=cut

sub keep
{
	my ($self, $window) = @_;
	foreach my $name (grep { !$self->{stopped}{$_} } @names)
	{
		next if ($self->{keep}{$name} // '200ms') eq $window;
		my $node = $self->{$name};
		my $control = $self->{control}{$name} //= session($node);
		$control->query("ALTER SYSTEM SET etcd_lock.keep_window = '$window'");
		$control->query('SELECT pg_reload_conf()');
		wait_until("keep_window of $name is $window",
			sub { $control->query('SHOW etcd_lock.keep_window') eq $window });
		$self->{keep}{$name} = $window;
	}
	return;
}

=item $rig->stop

End everything.

=cut

sub stop
{
	my ($self) = @_;
	$self->run_only;
	$self->{etcd}->stop;
	return;
}

=back

=head1 Load

=over

=item $rig->start(@command), $rig->wait_for($started)

A program in the background, and what it has printed when it has ended.  Dies if
it fails.

=cut

sub start
{
	my ($self, @command) = @_;
	my $file = "$self->{dir}/out" . $self->{files}++;
	return {
		command => "@command",
		file => $file,
		run => IPC::Run::start(\@command, '<', \undef, '>', $file, '2>', "$file.err")
	};
}

sub wait_for
{
	my ($self, $started) = @_;
	my $is_ok = $started->{run}->finish;
	my $out = PostgreSQL::Test::Utils::slurp_file($started->{file});
	my $err = PostgreSQL::Test::Utils::slurp_file("$started->{file}.err");
	unlink $started->{file}, "$started->{file}.err";
	die "failed: $started->{command}\n$err$out\n" unless $is_ok;
	return $out;
}

=item $rig->program($name, @arguments)

Run one of the programs whose output sample.h describes: { samples => { KIND =>
[microseconds] }, count, seconds }.

=cut

sub program
{
	my ($self, $name, @arguments) = @_;
	my $path = -x "$self->{programs}/$name" ? "$self->{programs}/$name" : $name;
	return read_samples($self->wait_for($self->start($path, @arguments)));
}

sub read_samples
{
	my ($out) = @_;
	my %result = (samples => {});
	foreach (split /\n/, $out)
	{
		if (/^done (\d+) (\S+)/) { @result{qw(count seconds)} = ($1, $2) }
		elsif (/^(\w+) ([\d.]+)$/) { push @{ $result{samples}{$1} }, $2 }
	}
	die "no result: $out\n" unless defined $result{count};
	return \%result;
}

=item $rig->pgbench(%options), $rig->start_pgbench(%options), $rig->end_pgbench($started)

pgbench with prepared statements: { tps, count, latencies => [microseconds], ends =>
[seconds] }, how long each transaction took and when it ended, in the order of each
client's.  Options: server (default
a), script (its text), clients (default 1), seconds, or transactions (of each
client), settings (hash), sample (part of the transactions whose latency is
noted; default all for one client and a tenth for several), more (list of further
arguments).

=cut

sub start_pgbench
{
	my ($self, %options) = @_;
	my $node = $self->{ $options{server} // 'a' };
	my $clients = $options{clients} // 1;
	my $prefix = "$self->{dir}/log" . $self->{files}++;
	my %settings = %{ $options{settings} // {} };
	my $sample = $options{sample} // ($clients == 1 ? 1 : 0.1);

	# pgbench knows whole seconds only, and connecting is part of them.
	my $seconds = ceil($options{seconds} // 0) + ($clients > 32 && !$self->{is_quick} ? 1 : 0);

	open my $script, '>', "$prefix.sql" or die "$prefix.sql: $!";
	print $script $options{script};
	close $script;

	local $ENV{PGOPTIONS} = join ' ', map { "-c $_=$settings{$_}" } sort keys %settings;
	my $started = $self->start(
		'sh', '-c', 'ulimit -n 4096 2>/dev/null; exec "$@"', 'sh',
		$node->installed_command('pgbench'),
		'--host', $node->host, '--port', $node->port, '-n', '-M', 'prepared',
		'-c', $clients, '-j', $clients > 1 ? 2 : 1,
		$options{transactions} ? ('-t', $options{transactions}) : ('-T', $seconds),
		'-f', "$prefix.sql", '-D', 'step=0', '-l', '--log-prefix', $prefix,
		$sample < 1 ? ('--sampling-rate', $sample) : (),
		@{ $options{more} // [] }, 'postgres');
	return { %$started, prefix => $prefix };
}

sub end_pgbench
{
	my ($self, $started) = @_;
	my $out = $self->wait_for($started);
	my %result = (latencies => [], ends => []);

	($result{tps}) = $out =~ /^tps = ([\d.]+)/m or die "no result: $out\n";
	($result{count}) = $out =~ /^number of transactions actually processed: (\d+)/m;
	die "pgbench: $out\n" if $out =~ /failed transactions: [1-9]/;
	foreach my $log (glob "$started->{prefix}.*")
	{
		if ($log =~ /\.\d+(\.\d+)?$/)
		{
			open my $file, '<', $log or die "$log: $!";
			while (<$file>)
			{
				my (undef, undef, $us, undef, $second, $part) = split ' ';
				push @{ $result{latencies} }, $us;
				push @{ $result{ends} }, $second + $part / 1e6;
			}
		}
		unlink $log;
	}
	return \%result;
}

sub pgbench { my ($self, @options) = @_; return $self->end_pgbench($self->start_pgbench(@options)) }

=item $rig->accounted($count, $work, @servers)

Run $work, and add to the hash that it returns what it has cost for each of $count
(a field of that hash, or a function of it): requests to etcd and raft proposals;
microseconds of CPU of etcd, of the servers' workers and of their sessions.

=cut

sub accounted
{
	my ($self, $count, $work, @servers) = @_;
	my %postmaster = map { $_ => $self->postmaster($_) } @servers;
	my %children = map { $_ => children_of($postmaster{$_}) } @servers;
	my $before = $self->account(\%postmaster);
	my $result = $work->();

	# Sessions are accounted to the postmaster when they are gone.
	my $until = time + 10;
	foreach my $name (@servers)
	{
		sleep 0.005
		  while children_of($postmaster{$name}) > $children{$name} && time < $until;
	}
	my $after = $self->account(\%postmaster);
	my $each = ref $count ? $count->($result) : $result->{$count};
	$result->{$_} = ($after->{$_} - $before->{$_}) / $each foreach keys %$after;
	return $result;
}

sub account
{
	my ($self, $postmaster) = @_;
	my %postmaster = %{ $postmaster // {} };
	return {
		%{ etcd_counters($self->endpoint) },
		etcd_us => cpu_us($self->{etcd}{pid}),
		worker_us => sum(map { cpu_us($self->worker($_)) } keys %postmaster),
		session_us => sum(map { children_cpu_us($_) } values %postmaster),
	};
}

=back

=cut

1;
