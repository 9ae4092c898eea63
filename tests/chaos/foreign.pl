#!/usr/bin/perl
# Usage: foreign.pl FUNCTION
# A worker of another make in the chaos run, Perl's Gearman::Worker on $GM_SERVERS. It does what `handler` does with jobs that
# end well, flaky ones at once, and it dies of a `kill`. It never fails a job: Gearman itself forgets one that failed.
use strict;
use warnings;
use Gearman::Worker;

my ($function) = @ARGV;
open my $log, '>>', $ENV{CHAOS_LOG} or die "$ENV{CHAOS_LOG}: $!\n";
my $runs = 0;

my $worker = Gearman::Worker->new(job_servers => [split /,/, $ENV{GM_SERVERS}]);
$worker->register_function($function => sub {
    my $job = shift;
    my ($id, $kind) = $job->arg =~ /^(\d+) (\w+)/ or die "not a job of ours\n";
    my $run = "$$." . ++$runs;
    my $say = sub {
        open my $uptime, '<', '/proc/uptime' or die;
        my ($now) = split ' ', <$uptime>;
        my $server = ref $job->{js} ? "$job->{js}{host}:$job->{js}{port}" : $job->{js};
        syswrite $log, join(' ', shift, $id, $now, 0, $job->handle, $server, $run) . "\n";
    };
    $say->('begun');
    kill KILL => $$ if $kind eq 'kill' and not -e $ENV{CHAOS_FIXED};
    select undef, undef, undef, 0.3 if $kind eq 'slow';
    $say->('done');
    return 'done';
});
$worker->work while 1;
