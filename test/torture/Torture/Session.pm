#-------------------------------------------------------------------------
# Torture::Session - one session that locks, works and commits, again and again
#
# A process of its own.  It writes what it did and saw, with times, as lines of
# JSON that Torture::Checker reads.  README.md tells what they mean.
#
# SIGUSR1: the nemesis has ended, keep to short work and wait for every lock.
# SIGUSR2: end after this piece of work.
#-------------------------------------------------------------------------
package Torture::Session;

use strict;
use warnings;

use JSON::PP;
use POSIX ();
use Torture::Wire qw(now nap);

my ($calm, $stop);

=pod

=over

=item start(%options)

Start a session's process; its pid.  Options: number, seed, server (its number),
socket and store (paths), user, names (SQL expressions), hot (such, one for each server),
log (file), ttl, extended
(speak the extended protocol), aim (nothing but work, and much of it takes long).

=cut

sub start
{
	my (%options) = @_;
	my $pid = fork // die "could not fork: $!";
	return $pid if $pid;

	# POSIX::_exit: the END blocks are the parent's business.
	$SIG{USR1} = sub { $calm = 1 };
	$SIG{USR2} = sub { $stop = $calm = 1 };
	$SIG{$_} = 'DEFAULT' foreach qw(INT TERM HUP);
	$SIG{__WARN__} = sub { print STDERR "session $options{number}: @_" };
	eval { run(bless {%options}, __PACKAGE__); 1 } or do
	{
		print STDERR "session $options{number} died: $@";
		POSIX::_exit(1);
	};
	POSIX::_exit(0);
}

=back

=cut

sub run
{
	my ($self) = @_;
	srand($self->{seed} * 1000 + $self->{number});
	open $self->{file}, '>', $self->{log} or die "$self->{log}: $!";
	$self->{file}->autoflush;
	$self->{serial} = 0;
	$self->{store_connection} =
	  Torture::Wire->connect($self->{store}, $self->{user})
	  // die 'no connection to the store';

	while (!$stop)
	{
		next unless $self->connected;
		my $what = $self->draw_work;
		my $end = eval { $self->$what; 1 } ? 'done' : $@;
		die $end unless $end eq 'done' || ref $end;
		$self->note(
			{
				t => 'op',
				what => $what,
				at => now(),
				end => ref $end ? $end->{why} : $end,
				sql => ref $end ? $end->{sql} : undef,
				message => ref $end ? $end->{message} : undef
			});
		$self->clean_up if ref $end;
		delete $self->{connection} if !$calm && rand() < 0.02;
		nap(rand 0.02) if !$calm;
		# A session that has been served lets others come to it.
		nap(0.1) if $calm;
	}
	$self->{connection}->close if $self->{connection};
	return;
}

sub note
{
	my ($self, $event) = @_;
	$event->{session} = $self->{number};
	$event->{server} = $self->{server};
	syswrite $self->{file}, encode_json($event) . "\n";
	return;
}

sub connected
{
	my ($self) = @_;
	return 1 if $self->{connection} && !$self->{connection}->closed;
	$self->{connection} =
	  Torture::Wire->connect($self->{socket}, $self->{user}, $self->{extended});
	nap(0.2), return 0 unless $self->{connection};
	return 1 if $self->{aim};

	# What a session is told of a loss, and when its commits are looked at.
	my $on_loss = qw(cancel terminate warn) [ rand 3 ];
	$self->{guard} = rand() < 0.4 ? 'etcd' : 'lease';
	$self->{connection}
	  ->query("SET etcd_lock.on_loss = $on_loss; SET etcd_lock.commit_guard = $self->{guard}");
	return 1;
}

# After a failure: no transaction and no lock is left, or no session.
sub clean_up
{
	my ($self) = @_;
	foreach my $sql ('ROLLBACK', 'SELECT etcd_unlock_all()')
	{
		my $answer = $self->{connection}->query($sql, 60);
		next unless $answer->{error} || $answer->{closed};
		$self->{connection}->close;
		return;
	}
	return;
}

#
# What to do
#

sub draw_work
{
	my ($self) = @_;
	$self->{name} = $self->{names}[ rand @{ $self->{names} } ];
	$self->{mode} = rand() < ($self->{aim} ? 0.9 : 0.7) ? 'x' : 's';
	$self->{xact} = rand() < 0.65;
	$self->{try} = $calm ? '' : ('', '', '', 'try', 'try a while')[ rand 5 ];
	$self->{impatient} = !$calm && rand() < 0.08;
	$self->{async} = rand() < 0.2;

	return 'work' if $calm || $self->{aim};
	return 'hot' if $self->{hot} && rand() < 0.25;
	my $draw = rand 100;
	return 'upgrade' if $draw < 3;
	return 'savepoint' if $draw < 7;
	return 'abandon' if $draw < 10;
	return 'discard' if $draw < 13;
	return 'rollback' if $draw < 16;
	return 'work';
}

# Lock, work, commit, in a transaction or several of a session's lock.
sub work
{
	my ($self) = @_;
	if ($self->{xact})
	{
		$self->begin;
		my $hold = $self->lock or return $self->must('ROLLBACK');
		return $self->work_and_commit($hold);
	}
	my $hold = $self->lock or return;
	foreach (1 .. 1 + rand 3)
	{
		$self->must('BEGIN');
		$self->work_and_commit($hold);
	}
	$self->must("SELECT etcd_unlock_all()");
	return;
}

# The same name again and again, as its server keeps it; now and then that of another
# server.
sub hot
{
	my ($self) = @_;
	my @hot = @{ $self->{hot} };
	$self->{name} = $hot[ rand() < 0.9 ? $self->{server} : rand @hot ];
	$self->{mode} = rand() < 0.85 ? 'x' : 's';
	local $self->{hurry} = 1;
	foreach (1 .. 5 + rand 30)
	{
		last if $calm;
		$self->{xact} = rand() < 0.5;
		$self->work;
		nap(rand 0.3) if rand() < 0.1;
	}
	return;
}

# From shared to exclusive mode, in one transaction.
sub upgrade
{
	my ($self) = @_;
	$self->{xact} = 1;
	$self->{try} = '';
	$self->{mode} = 's';
	$self->begin;
	my $shared = $self->lock or return;
	nap(rand 0.05);
	my $asked = now();
	$self->{mode} = 'x';
	my $hold = $self->lock;
	my $event = $self->work_and_commit($hold);
	$self->note({ %$event, %$shared, mode => 's', sent => $asked })
	  if $event->{outcome} eq 'committed';
	return;
}

# A lock of a savepoint, which is rolled back, or goes on to the transaction.
sub savepoint
{
	my ($self) = @_;
	$self->{xact} = 1;
	$self->begin;
	$self->must('SAVEPOINT a');
	my $hold = $self->lock or return $self->must('ROLLBACK');
	return $self->work_and_commit($hold)
	  if rand() < 0.5 && $self->must('RELEASE a');
	$self->must('ROLLBACK TO a');
	nap(rand 0.1);
	$self->must('COMMIT');
	return;
}

# The client goes away with a lock.
sub abandon
{
	my ($self) = @_;
	$self->begin if $self->{xact};
	$self->lock;
	nap(rand 0.3);
	$self->{connection}->close;
	return;
}

# A session's locks end by the many.
sub discard
{
	my ($self) = @_;
	$self->{xact} = 0;
	$self->lock or return;
	$self->must("SELECT etcd_lock$self->{suffix}($self->{name})") if rand() < 0.5;
	nap(rand 0.1);
	$self->must(
		(
			'DISCARD ALL',
			'SELECT etcd_unlock_all()',
			'SELECT pg_advisory_unlock_all()'
		)[ rand 3 ]);
	# DISCARD has forgotten the settings.
	$self->{connection}->close;
	return;
}

sub rollback
{
	my ($self) = @_;
	$self->begin if $self->{xact};
	$self->lock;
	nap(rand 0.1);
	$self->must('ROLLBACK') if $self->{xact};
	$self->must('SELECT etcd_unlock_all()');
	return;
}

#
# How to do it
#

# A statement that ends the piece of work if it fails.
sub must
{
	my ($self, $sql, $how) = @_;
	$how //= 'query';
	my $answer = $self->{connection}->$how($sql);

	# What could not be said at a commit.
	$self->note({ t => 'late', at => $answer->{received} })
	  if grep { $_->{M} =~ /lost while the last transaction committed/ } @{ $answer->{notices} };
	$self->give_up($sql, $answer) if $answer->{error} || $answer->{closed};
	return $answer;
}

sub give_up
{
	my ($self, $sql, $answer) = @_;
	my $error = $answer->{error};
	my $why = $answer->{late} ? 'stuck' : $error ? $error->{C} : 'closed';

	# A cancel has many reasons; the extension's own is a loss.
	$why = 'lost'
	  if $error && $error->{M} =~ /etcd lock ".*" was lost/ && $why =~ /^57/;
	die { why => $why, sql => $sql, message => $error && $error->{M} };
}

sub begin
{
	my ($self) = @_;
	$self->must('BEGIN');
	$self->must('SET LOCAL synchronous_commit = off') if $self->{async};
	$self->must("SET LOCAL lock_timeout = '300ms'") if $self->{impatient};
	return;
}

# Get the lock: { hold, name, mode, token, grant }, or undef.
sub lock
{
	my ($self) = @_;
	my $xact = $self->{xact} ? 'xact_' : '';
	my $try = $self->{try} ? 'try_' : '';
	my $wait = $self->{try} eq 'try a while' ? ", wait => '500 ms'" : '';
	$self->{suffix} = $self->{mode} eq 's' ? '_shared' : '';

	my $call = "SELECT etcd_${try}${xact}lock$self->{suffix}($self->{name}$wait)";
	my $answer =
	    $self->{xact} && $self->{extended} && rand() < 0.3
	  ? $self->must("$call FROM generate_series(1, 2)", 'open')
	  : $self->must($call);
	my $result = $answer->{rows}[0][0];
	return if $try && $result ne 't';
	$self->note({ t => 'grant', at => $answer->{received}, asked => $answer->{sent} });
	my $token = $result;
	if ($try)
	{
		my $sql = "SELECT etcd_lock_token($self->{name})";
		$token = $self->must($sql)->{rows}[0][0]
		  // die { why => 'no token', sql => $sql };
	}
	return {
		hold => "$self->{number}-" . ++$self->{serial},
		name => $self->{name},
		mode => $self->{mode},
		token => $token,
		scope => $self->{xact} ? 'xact' : 'session',
		guard => $self->{guard} // '',
		asked => $answer->{sent},
		grant => $answer->{received}
	};
}

# The guarded section, up to its COMMIT, and a note of it.
sub work_and_commit
{
	my ($self, $hold) = @_;
	my $id = "$self->{number}-" . ++$self->{serial};
	my $event = { %$hold, t => 'txn', id => $id };
	my $section = $hold->{mode} eq 'x' ? 'update_store' : 'look_at_store';

	my $ok = eval {
		$self->$section($event);
		$self->must("INSERT INTO done VALUES ('$id', $event->{token})");
		1;
	};
	if (!$ok)
	{
		my $error = $@;
		die $error unless ref $error;
		$event->{outcome} = "failed: $error->{why}";
		$self->note($event);
		die $error;
	}

	my $answer = $self->{connection}->query('COMMIT');
	@$event{qw(sent done)} = @$answer{qw(sent received)};
	$event->{async} = $self->{async} ? 1 : 0;
	$event->{state} = $answer->{error}{C} if $answer->{error};
	$event->{outcome} =
		$answer->{tag} eq 'COMMIT' ? 'committed'
	  : $answer->{error} && !$answer->{closed} ? 'refused'
	  : $answer->{closed} ? 'unknown'
	  : 'rolled back';
	$self->note($event);
	$self->give_up('COMMIT', $answer) if $answer->{error} || $answer->{closed};
	return $event;
}

# Exclusive: read, modify, write, twice: as it is and fenced by the token.
sub update_store
{
	my ($self, $event) = @_;
	my $name = sql_string($event->{name});

	my $fenced = $self->in_store(
		"UPDATE counter SET fence = $event->{token}"
		  . " WHERE name = $name AND fence <= $event->{token} RETURNING fenced"
	)->{rows}[0][0];
	my $row =
	  $self->in_store("SELECT value, writer FROM counter WHERE name = $name")
	  ->{rows}[0];
	$event->{read} = $row->[1];
	$self->pause;
	$self->in_store('UPDATE counter SET value = '
		  . ($row->[0] + 1)
		  . ", writer = '$event->{id}' WHERE name = $name");
	$event->{fenced} =
	  $self->in_store('UPDATE counter SET fenced = '
		  . ($fenced + 1)
		  . " WHERE name = $name AND fence = $event->{token}")->{tag} eq 'UPDATE 1'
	  if defined $fenced;
	$event->{fenced} = $event->{fenced} ? 1 : 0;
	return;
}

# Shared: nobody writes meanwhile.
sub look_at_store
{
	my ($self, $event) = @_;
	my $sql =
	  'SELECT writer FROM counter WHERE name = ' . sql_string($event->{name});
	$event->{read} = $self->in_store($sql)->{rows}[0][0];
	$self->pause;
	$event->{read_again} = $self->in_store($sql)->{rows}[0][0];
	return;
}

sub in_store
{
	my ($self, $sql) = @_;
	my $answer = $self->{store_connection}->query($sql);
	die "the store: $sql: " . encode_json($answer)
	  if $answer->{error} || $answer->{closed};
	return $answer;
}

# Work takes its time, now and then longer than a lease lives, in the client or
# in a statement that can be cancelled.
sub pause
{
	my ($self) = @_;
	return nap(rand 0.01) if $calm;
	return nap(rand 0.001) if $self->{hurry} && rand() < 0.98;
	return nap(rand 0.02) if rand() > ($self->{aim} ? 0.5 : 0.07);
	my $seconds = $self->{ttl} * ($self->{aim} ? 2 + rand 0.6 : rand 2);
	if (!$self->{aim} && rand() < 0.5)
	{
		$self->must("SELECT pg_sleep($seconds)");
		return;
	}
	my $until = now() + $seconds;
	nap(0.05) while !$calm && now() < $until;
	return;
}

sub sql_string
{
	my ($string) = @_;
	$string =~ s/'/''/g;
	return "'$string'";
}

1;
