#!/usr/bin/perl
# Usage: worker.pl PORT FUNCTION LOG
# Gearman::Worker: a job is {"n": NUMBER, "how": HOW}; what is not JSON fails.
# LOG gets a line per job: its payload in base64, and how.
use strict;
use warnings;
use Gearman::Worker;
use IO::Handle;
use JSON::PP;
use MIME::Base64;

my ($port, $function, $log) = @ARGV;
open my $out, '>>', $log or die "$log: $!\n";
$out->autoflush(1);
my $worker = Gearman::Worker->new(job_servers => ["127.0.0.1:$port"]);
$worker->register_function($function => sub {
    my $job = shift;
    my $given = eval { decode_json($job->arg) };
    my $how = $given ? $given->{how} // 'ok' : 'undecodable';
    print {$out} encode_base64($job->arg, '') . " $how\n";
    die "no luck\n" if $how eq 'raise';
    return undef if $how eq 'fail' or $how eq 'undecodable';
    $job->set_status(1, 2) if $how eq 'progress';
    return "done $given->{n}";
});
$worker->work while 1;
